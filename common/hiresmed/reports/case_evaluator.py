"""MONAI's evaluator for a folder of cases, of which a broken one does not stop the others."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import ignite.distributed as idist
from monai.engines import SupervisedEvaluator

from ..core.errors import FullDiskError, InputError, first_input_error
from ..core.volumes import first_line


class CaseEvaluator(SupervisedEvaluator):
    """A SupervisedEvaluator that works on each case by itself: all get their results but those that cannot.

    A single case ends with its own error. Of several, the sentence of each broken one is shown where it occurs and
    again in a summary at the end, which also ends the run with an error. What stops every case alike (the same sentence
    twice before any result, a full disk) stops the run. With several processes a case that cannot be loaded is passed
    over in all of them; a later error stops the run, as the others wait for a share of the work.

    Args: see SupervisedEvaluator; the data loader's dataset has the list `data` of dicts with a "name".

    Raises:
        InputError: at the end, if cases have no result.
    """

    data_loader: Any

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]  # as MONAI's Evaluator, not ignite's Engine
        loader = self.data_loader
        cases = getattr(getattr(loader, "dataset", None), "data", None)
        if not isinstance(cases, list) or len(cases) < 2:
            super().run(global_epoch)
            return
        length = self.state.epoch_length
        failed: dict[str, str] = {}
        try:
            for n, case in enumerate(cases):
                name = str(case["name"])
                one = _OneCase(loader, n)
                self.data_loader, self.state.epoch_length = one, 1
                try:
                    super().run(global_epoch)
                except Exception as error:
                    if one.loaded and idist.get_world_size() > 1:
                        raise
                    if isinstance(first_input_error(error), FullDiskError):
                        raise
                    sentence = _sentence_of(error)
                    if len(failed) == n and sentence in failed.values():
                        raise
                    failed[name] = sentence
                    if idist.get_rank() == 0:
                        print(f"{name} has no result: {sentence}", file=sys.stderr, flush=True)
                    self._forget()
        finally:
            self.data_loader, self.state.epoch_length = loader, length
        if failed:
            raise _summary(failed, len(cases))

    def _forget(self) -> None:
        """Nothing of a run that was broken off: its images, and ignite's generator, which would be continued."""
        self.state.batch = self.state.output = None
        self._internal_run_generator = None


class _OneCase:
    """What a data loader gives for its n-th case alone, loaded when it is asked for."""

    def __init__(self, loader: Any, n: int) -> None:
        self.loader = loader
        self.n = n
        self.loaded = False

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        mistake: Exception | None = None
        batch = None
        try:
            batch = self.loader.collate_fn([self.loader.dataset[self.n]])
        except Exception as error:
            mistake = error
        if idist.get_world_size() > 1 and int(idist.all_reduce(int(mistake is not None))) and mistake is None:
            mistake = InputError("the case could not be loaded by another process; see its message.")
        if mistake is not None:
            raise mistake
        self.loaded = True
        yield batch


def _sentence_of(error: Exception) -> str:
    mistake = first_input_error(error)
    if mistake is not None:
        return str(mistake)
    traceback.print_exception(error)  # no user's mistake, but ours
    return f"{type(error).__name__}: {first_line(error)}"


def _summary(failed: Mapping[str, str], count: int) -> InputError:
    """Prints what became of all cases, and says it in one sentence."""
    if idist.get_rank() == 0:
        print(f"{count - len(failed)} of {count} cases have a result; {len(failed)} have none:")
        for name, sentence in failed.items():
            print(f"  {name}: {sentence}", flush=True)
    names = ", ".join(list(failed)[:6]) + (f" and {len(failed) - 6} more" if len(failed) > 6 else "")
    return InputError(
        f"All {count} cases must have a result, got none for {len(failed)} ({names}; their reasons stand above); "
        "mend them, or move them out of the folder, and go on with resume true."
    )
