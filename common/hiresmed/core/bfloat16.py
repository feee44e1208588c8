"""bfloat16 that is checked on the present machine before it is used.

A kernel that computes bfloat16 wrongly raises nothing. Known case: torch 2.13 on processors with AVX512 (Intel's and
AMD's) leaves the weight gradient of a padded 3^3 convolution uninitialised where its input is 2 x 2 x 2, and only
there. So a training compares the gradients of a real batch, and inference an output, with those of float32, and
continues in float32 where they disagree. (torch.autograd.gradcheck compares with finite differences in float64, which
says nothing about bfloat16.)
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from .distributed import any_process, gather_objects
from .processor import processor_name

logger = logging.getLogger(__name__)

# Healthy gradients of our five networks are off by at most .27 (of a bias), their lowest cosine is .979; outputs by .02
GRADIENT_TOLERANCE = 0.5
OUTPUT_TOLERANCE = 0.25
# Shares of the whole gradient's length below which a tensor's own length does not count. The gradient of a bias is a
# sum over all voxels whose terms cancel (before a normalisation to 0), so it is the less exact one.
NEGLIGIBLE = 1e-3
NEGLIGIBLE_BIAS = 0.05
MOST_KINDS = 16  # shapes of batches that a training probes: not all, where each batch has a shape of its own


@dataclass(frozen=True)
class PrecisionComparison:
    """How well tensors computed in bfloat16 agree with those computed in float32.

    Attributes:
        alike: the error of every tensor is within the tolerance.
        worst: name of the tensor with the largest error.
        error: |bfloat16 - float32| / |float32| of that tensor.
        ratio: |bfloat16| / |float32| of that tensor.
        cosine: lowest cosine of a bfloat16 tensor with its float32 counterpart, over all that are not negligible; 0 for
            one that is 0 or not finite.
        seconds: duration of the comparison.
    """

    alike: bool
    worst: str
    error: float
    ratio: float
    cosine: float
    seconds: float = 0.0


def compare_tensors(
    exact: Mapping[str, Tensor], rounded: Mapping[str, Tensor], tolerance: float
) -> PrecisionComparison:
    """Compares tensors computed in bfloat16 (`rounded`) with those of the same names in float32 (`exact`).

    Args:
        tolerance: largest allowed |rounded - exact| / |exact|. Where a tensor is shorter than a negligible share of
            the length of all of `exact` together, that share replaces its |exact|.

    >>> right, wrong = torch.tensor([3.0, 4.0]), torch.tensor([4.0, -3.0])
    >>> compare_tensors({"weight": right}, {"weight": right.bfloat16()}, 0.5).alike
    True
    >>> compare_tensors({"weight": right}, {"weight": wrong}, 0.5).cosine
    0.0
    """
    if not exact:
        return PrecisionComparison(True, "", 0.0, 1.0, 1.0)
    rows = torch.stack([_products(exact[name], rounded[name]) for name in exact]).tolist()  # one wait for the device
    total_length = math.sqrt(sum(row[0] for row in rows))
    alike = True
    worst = ("", -1.0, 1.0)
    cosine = 1.0
    for name, (exact_squared, rounded_squared, product, error_squared) in zip(exact, rows):
        length = math.sqrt(exact_squared)
        rounded_length = math.sqrt(rounded_squared)
        least = total_length * (NEGLIGIBLE if exact[name].ndim > 1 else NEGLIGIBLE_BIAS)
        error = math.sqrt(error_squared) / max(length, least, 1e-30)
        error = math.inf if math.isnan(error) else error
        alike = alike and error <= tolerance
        if error > worst[1]:
            worst = (name, error, rounded_length / max(length, 1e-30))
        if length > least:
            cosine = min(cosine, product / (length * rounded_length) if 0 < rounded_length < math.inf else 0.0)
    return PrecisionComparison(alike, *worst, cosine)


def _products(exact: Tensor, rounded: Tensor) -> Tensor:
    """(4,) in float64: exact . exact, rounded . rounded, exact . rounded, |rounded - exact|^2."""
    a = exact.detach().double().flatten()
    b = rounded.detach().double().flatten()
    return torch.stack([a @ a, b @ b, a @ b, (b - a).square().sum()])


@contextmanager
def preserve_state(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Restores weights, gradients, buffers (batch statistics) and random state at the end of the block.

    Inside, weights that are all 0 are replaced by random ones: a layer of zeros passes no gradient to those before it.
    """
    networks = list(networks)
    gradients = [(p, p.grad) for network in networks for p in network.parameters()]
    zeros = [p for p, _ in gradients if p.ndim > 1 and not p.any()]
    buffers = [(b, b.clone()) for network in networks for b in network.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            with torch.no_grad():
                for parameter in zeros:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
            for parameter, _ in gradients:
                parameter.grad = None
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for parameter in zeros:
                    parameter.zero_()
                for buffer, before in buffers:
                    buffer.copy_(before)


def probe_gradients(
    gradients: Callable[[bool], Mapping[str, Tensor]], networks: Iterable[nn.Module], device: torch.device
) -> PrecisionComparison:
    """Compares gradients(True), made under bfloat16, with gradients(False); both passes start from the same state.

    Args:
        gradients: computes the gradients of one batch, by name, under bfloat16 autocast or without.
        networks: left as they were; see `preserve_state`.
        device: where they are.
    """
    start_time = time.perf_counter()
    networks = list(networks)
    passes = []
    for autocast in (False, True):
        with preserve_state(networks, device):
            # a kernel that forgets to write its result must not find the right one where it was freed
            invalid_blocks = [torch.full_like(p, math.nan) for network in networks for p in network.parameters()]
            del invalid_blocks
            passes.append(dict(gradients(autocast)))
    exact, rounded = passes
    likeness = compare_tensors(exact, rounded, GRADIENT_TOLERANCE)
    return replace(likeness, seconds=time.perf_counter() - start_time)


class TrainingPrecision:
    """Whether a training computes in bfloat16: as `amp` asks, unless a probe on this machine found it wrong.

    Each kind of batch (its shapes) is probed once, before the first step on it, which takes as long as a step or two.
    The result goes into the checkpoint with the machine's name: a training resumed on that machine decides alike, one
    resumed elsewhere probes again.

    Args:
        amp: bfloat16 is asked for.
    """

    optional = True  # a checkpoint of a version without it resumes; see training.Checkpoint

    def __init__(self, amp: bool) -> None:
        self.asked = amp
        self.autocast = amp
        self.machine = ""
        self.kinds: list[str] = []
        self._agreed = False

    def settle(self, kind: str, probe: Callable[[], PrecisionComparison], device: torch.device) -> None:
        """Probes a kind of batch that is new. All processes must call it together, and decide alike.

        Args:
            kind: the batch's shapes, in words.
            probe: see probe_gradients.
            device: where the training runs.
        """
        if not self.asked:
            return
        self._agree(machine_name(device))
        if not self.autocast:
            return
        sentence = ""
        if kind not in self.kinds and len(self.kinds) < MOST_KINDS:
            self.kinds.append(kind)
            sentence = self._probe_once(kind, probe)
        if any_process(sentence != ""):
            self.autocast = False
            sentences = gather_objects(sentence)
            if idist.get_rank() == 0:
                logger.warning("%s", next(filter(None, sentences)))

    def _agree(self, here: str) -> None:
        """Once per run: the checkpoint's decision holds if all processes run on the machine that made it."""
        if self._agreed:
            return
        self._agreed = True
        if any_process(self.machine != here):
            self.machine = here
            self.kinds = []
            self.autocast = True
        elif not self.autocast and idist.get_rank() == 0:
            logger.warning("bfloat16 was wrong on this machine (%s) before: training goes on in float32.", here)

    def _probe_once(self, kind: str, probe: Callable[[], PrecisionComparison]) -> str:
        """The sentence that says what is wrong; empty if nothing is."""
        try:
            likeness = probe()
        except torch.OutOfMemoryError:
            logger.warning(
                "bfloat16 is used without a check: the device's memory is too small for one step in float32."
            )
            return ""
        if not likeness.alike:
            return fallback_message("gradients", likeness, self.machine)
        if idist.get_rank() == 0:
            logger.info(
                "Gradients of %s in bfloat16 are like float32's: lowest cosine %.4f, checked in %.1f s.",
                kind, likeness.cosine, likeness.seconds,
            )  # fmt: skip
        return ""

    @contextmanager
    def forced(self, autocast: bool) -> Iterator[None]:
        """Inside the block, bfloat16 or not, whatever was decided: for the probe's own passes."""
        before = self.autocast
        self.autocast = autocast
        try:
            yield
        finally:
            self.autocast = before

    def state_dict(self) -> dict[str, Any]:
        machine = self.machine if self.asked else ""  # a later phase with amp must probe
        return {"autocast": self.autocast, "machine": machine, "kinds": list(self.kinds)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.autocast = self.asked and state["autocast"]
        self.machine = state["machine"]
        self.kinds = list(state["kinds"])
        self._agreed = False


class InferencePrecision:
    """Autocast to bfloat16 as `amp` asks, unless a small example disagrees with float32 on this machine.

    Args:
        amp: bfloat16 is asked for.
        device: where the network runs.
    """

    def __init__(self, amp: bool, device: torch.device) -> None:
        self.autocast = amp
        self.device = device
        self.kinds: set[Hashable] = set()

    def context(self, kind: Hashable, example: Callable[[], Tensor]) -> torch.autocast:
        """The autocast to compute in; before the first one of a kind its example is compared with float32.

        Args:
            kind: what is computed: layers and shapes, not values.
            example: computes a small output of that kind, the same at each call. It must not depend on what else is
                computed in this run, so that all processes, and a resumed run, decide alike.
        """
        if self.autocast and kind not in self.kinds:
            self.kinds.add(kind)
            likeness = probe_output(example, self.device)
            self.autocast = likeness.alike
            if not likeness.alike:
                logger.warning("%s", fallback_message("outputs", likeness, machine_name(self.device)))
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def noise(self, *shape: int) -> Tensor:
        """N(0, 1) on the device, for an example: the same values at each call."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)


def probe_output(example: Callable[[], Tensor], device: torch.device) -> PrecisionComparison:
    """Compares example() under bfloat16 autocast with example() in float32."""
    start_time = time.perf_counter()
    passes = []
    with torch.inference_mode():
        for autocast in (False, True):
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                passes.append({"output": example()})
    exact, rounded = passes
    return replace(compare_tensors(exact, rounded, OUTPUT_TOLERANCE), seconds=time.perf_counter() - start_time)


def probe_convolutions(device: torch.device) -> dict[int, PrecisionComparison]:
    """Side of a cube in voxels -> gradients of two padded 3^3 convolutions on it: kernels differ by such sizes."""
    layers = [nn.Conv3d(16, 16, 3, padding=1) for _ in range(2)]
    network = nn.Sequential(layers[0], nn.SiLU(), layers[1]).to(device)
    comparisons = {}
    for size in (1, 2, 3, 4, 8):
        random = torch.Generator().manual_seed(size)
        shape = (2, 16, size, size, size)
        x, target = (torch.randn(shape, generator=random).to(device) for _ in range(2))

        def gradients(autocast: bool, x: Tensor = x, target: Tensor = target) -> dict[str, Tensor]:
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = (network(x).float() - target).square().mean()
            loss.backward()
            return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

        comparisons[size] = probe_gradients(gradients, [network], device)
    return comparisons


def fallback_message(what: str, likeness: PrecisionComparison, where: str) -> str:
    """The one sentence that says why `amp` is not done."""
    wrong = "is not finite"
    if math.isfinite(likeness.ratio):
        wrong = f"has {likeness.ratio:.2g} times the length (lowest cosine {likeness.cosine:.2f})"
    return (
        f"amp is true, but {what} in bfloat16 are not those of float32 on this machine ({where}): '{likeness.worst}' "
        f"{wrong}; the run goes on in float32."
    )


def describe_shapes(*values: Any) -> str:
    """The kind of a batch as text: shapes of its tensors without the batch axis, and its other values.

    >>> describe_shapes(torch.zeros(2, 1, 8, 9), 3)
    '1x8x9, 3'
    """
    return ", ".join("x".join(map(str, v.shape[1:])) if isinstance(v, Tensor) else str(v) for v in values)


def machine_name(device: torch.device) -> str:
    """Names what decides which kernels compute: the processor or GPU, and the version of torch."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{name}, torch {torch.__version__}"
