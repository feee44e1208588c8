"""A bundle's workflow in this process, with the command's checks, leaving the process as it was."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from ..cli.bundle_folders import BundleFolder, bundle, known_ids
from ..cli.shipped_configs import are_shipped
from ..core.errors import first_input_error
from ..core.knobs import TEXT_KNOBS, as_expression, check_knob_names
from ..core.output_files import unlock_folders
from ..training.seeding import random_state, set_random_state


@contextmanager
def opened_workflow(
    name: str | os.PathLike, configs: Sequence[str], knobs: Mapping[str, Any]
) -> Iterator[ConfigWorkflow]:
    """A workflow after its `initialize`, as `hiresmed run` would start it.

    Args:
        name: of the bundle, or its folder.
        configs: names of a workflow or overlays; none: inference.
        knobs: {name: value}.

    Raises:
        InputError: of what happens inside, too, whatever MONAI wrapped it in.
    """
    chosen = bundle(os.fspath(name))
    files = chosen.files(configs)
    check_knob_names(knobs, known_ids(files))
    with _process_as_it_was():
        if not are_shipped(files):
            warnings.warn(
                f"The configs of {chosen.name} are not as this library ships them, and a config can run any code; run "
                "it only if you trust its source.",
                stacklevel=5,
            )
        try:
            workflow = _workflow(chosen, files, knobs)
            workflow.initialize()
            yield workflow
        except Exception as error:
            raise first_input_error(error) or error from None
        finally:
            unlock_folders()


def _workflow(chosen: BundleFolder, files: Sequence[Path], knobs: Mapping[str, Any]) -> ConfigWorkflow:
    values = {"bundle_root": str(chosen.root), **knobs}
    texts = {name: _as_text(value) if name in TEXT_KNOBS else value for name, value in values.items()}
    logger = logging.getLogger("monai.bundle.workflows")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would warn that it leaves the logging of this process alone, as it shall
    try:
        return ConfigWorkflow([str(file) for file in files], logging_file=False, workflow_type=None, **texts)
    finally:
        logger.setLevel(level)


def _as_text(value: Any) -> Any:
    """A path, or a list of them, as MONAI's parser passes it on unchanged."""
    if isinstance(value, (list, tuple)):
        return [_as_text(item) for item in value]
    return as_expression(os.fspath(value)) if isinstance(value, (str, os.PathLike)) else value


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Random state, hooks, warnings and the handler of SIGTERM are afterwards those of before."""
    hook = sys.excepthook
    factory = logging.getLogRecordFactory()
    state = random_state()
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            sys.excepthook = hook
            logging.setLogRecordFactory(factory)
            set_random_state(state)
            if in_main and handler is not None:
                signal.signal(signal.SIGTERM, handler)
