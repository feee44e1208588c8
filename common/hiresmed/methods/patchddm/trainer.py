"""Training of a conditional diffusion network on patches that know where they lie.

MONAI's DiffusionPrepareBatch draws its noise from the call order, which a resumed or a distributed run does not repeat,
and its SupervisedTrainer keeps network and optimiser out of the state and autocasts on CUDA alone: so this one, on
MONAI's Trainer, as the adversarial one.

Letters: B = batch, C = image channels, D = spatial axes, K = label channels, P = patch shape, t = time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.engines import Trainer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...core.bfloat16 import PrecisionComparison, TrainingPrecision, describe_shapes, probe_gradients
from ...core.distributed import unwrap
from ...core.errors import InputError
from ...core.gradient_guard import GradientGuard, gradient_norm
from ...core.knobs import check_training, parse_bool, parse_int
from ...core.memory import out_of_memory
from ...training.batches import batch_tensor
from ...training.trainer import to_float32

CURE = (
    "lower patch_size or crops, raise accumulation_steps, set amp to true, or let the network keep less "
    "(network_def::checkpointing)"
)


class LabelBatch:
    """prepare_batch of DiffusionTrainer: (condition (B, C + D, *P), label (B, K, *P)).

    Args:
        image: key of (B, C, *P).
        label: key of (B, K, *P) in {0, 1}, one channel a class.
        coordinates: key of (B, D, *P).
        convention: of the coordinates, as in CoordinateCropd; None: the network gets no coordinates.

    Raises:
        InputError: a key is missing, the grids differ, or the label has values beyond 0 and 1.
    """

    def __init__(
        self,
        image: str = Keys.IMAGE,
        label: str = Keys.LABEL,
        coordinates: str = "coords",
        convention: str | None = "centre",
    ) -> None:
        self.keys = [image] if convention is None else [image, coordinates]
        self.label = label

    def __call__(self, batchdata: Mapping, device: torch.device, non_blocking: bool = False) -> tuple[Tensor, Tensor]:
        label = batch_tensor(batchdata, self.label, torch.device("cpu"), False)  # checked before a GPU has to wait
        if label.min() < 0 or label.max() > 1:
            raise InputError(
                f"'{self.label}' must hold one channel a class with values from 0 to 1, got {label.min():g} to "
                f"{label.max():g}; turn the label map into channels first."
            )
        label = label.to(device, non_blocking=non_blocking)
        channels = [batch_tensor(batchdata, key, device, non_blocking) for key in self.keys]
        for key, value in zip(self.keys, channels):
            if value.shape[:1] != label.shape[:1] or value.shape[2:] != label.shape[2:]:
                raise InputError(
                    f"'{key}' must lie on the label's grid (B, *P) = {(len(label), *label.shape[2:])}, got shape "
                    f"{tuple(value.shape)}; crop and batch both alike."
                )
        dtype = channels[0].dtype
        return torch.cat([value.to(dtype) for value in channels], 1), label.to(dtype)


class DiffusionTrainer(Trainer):
    """One iteration noises the labels of one batch, each to a time of its own, and has the network undo it.

    x_t = alpha_t x_0 + sigma_t eps, with x_0 the label brought into `label_range`, t uniform in 0 .. T-1 (but
    see first_share); the network is asked for network(cat([image, coordinates, x_t], 1), t) and compared with the
    schedule's target (Ho 2020, algorithm 1; Bieder 2023).

    Time and noise of a sample are a function of (seed, iteration, its number in the global batch): so a resumed
    run repeats them, and the number of processes (with distributed.distributed_sampler) and of micro-batches does not
    matter. On a GPU the noise is drawn there, and differs from a CPU's.

    engine.state.output, detached: "loss" (0-dim), "pred" and "label" (B, K, *P): the x_0 that the network's output
    implies, and the true one; and "skipped_steps", once a step was not taken (see gradient_guard).

    Args:
        network: on `device`, or wrapped by distributed.prepare_network.
        schedule: samplers.NoiseSchedule; also says what is predicted.
        prepare_batch: (batchdata, device, non_blocking) -> (condition, label); see LabelBatch.
        loss_function: (output, target) -> mean over the batch.
        label_range: what the labels 0 and 1 become: [0, 1] (the paper) or [-1, 1] (eps and x_0 of one size).
        seed: of times and noise, from 0 on.
        first_share: share of the samples that are trained at the schedule's first time, where a sampler begins with
            noise alone, instead of a uniform one: what one-step sampling asks of the network. 0 is the paper's.
        accumulation_steps: number of micro-batches a batch is cut into; gradients are those of the whole batch.
        max_grad_norm: clips the gradient to this Euclidean norm; None: no clipping.
        ema: torch.optim.swa_utils.AveragedModel of the unwrapped network, updated after each step.
        amp: autocast to bfloat16 on CPU and CUDA, if a probe of the first batch finds its gradients like float32's;
            the loss stays in full precision.

    Raises:
        InputError: for knobs out of range, or a network whose output has another shape than the label.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        prepare_batch: Callable[..., tuple[Tensor, Tensor]] | None = None,
        loss_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        label_range: Sequence[float] = (-1.0, 1.0),
        seed: int = 0,
        first_share: float = 0.0,
        accumulation_steps: int = 1,
        max_grad_norm: float | None = None,
        ema: torch.optim.swa_utils.AveragedModel | None = None,
        amp: bool = False,
        epoch_length: int | None = None,
        non_blocking: bool = False,
        train_handlers: Sequence | None = None,
    ) -> None:
        check_training(max_epochs, epoch_length)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch or LabelBatch(),
            decollate=False,
        )
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.loss_function = loss_function or nn.MSELoss()
        self.low, self.high = (float(value) for value in label_range)
        if not self.low < self.high:
            raise InputError(f"label_range must be [0, 1] or [-1, 1], got {list(label_range)}; change it.")
        self.seed = parse_int(seed, "seed")
        self.first_share = float(first_share)
        if not 0 <= self.first_share <= 1:
            raise InputError(f"first_share must be from 0 to 1, got {first_share}; change it.")
        self.accumulation_steps = parse_int(accumulation_steps, "accumulation_steps", 1)
        self.max_grad_norm = max_grad_norm
        self.ema = ema
        # not MONAI's `amp`, which makes a loss scaler (float16's tool)
        self.precision = TrainingPrecision(parse_bool(amp, "amp"))
        self.guard = GradientGuard("network")
        # only now, as a handler may look at what stands above
        self._register_handlers(train_handlers or [])

    def checkpoint_objects(self) -> dict[str, Any]:
        """All that training changes, by name, each with state_dict and load_state_dict; the network unwrapped."""
        objects = {"network": unwrap(self.network), "optimizer": self.optimizer}
        objects |= {"precision": self.precision, "guard": self.guard}
        return objects if self.ema is None else {**objects, "ema": self.ema}

    def _iteration(self, engine: Trainer, batchdata: Any) -> dict[str, Tensor]:
        """One step of the optimiser on one batch."""
        with out_of_memory(CURE):
            return self._step(batchdata)

    def _step(self, batchdata: Any) -> dict[str, Tensor]:
        condition, label = self.prepare_batch(batchdata, self.state.device, self.non_blocking)
        x0 = self._in_range(label)
        t, eps = self._times_and_noise(x0)
        self.network.train()
        first = [value[:1] for value in (condition, x0, t, eps)]
        self.precision.settle(describe_shapes(condition), lambda: self._probe(*first), self.state.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss = x0.new_zeros(())
        predictions = []
        parts = list(zip(*(value.chunk(self.accumulation_steps) for value in (condition, x0, t, eps))))
        for k, part in enumerate(parts, start=1):
            with self._gradient_sync(last=k == len(parts)):
                one, x0_implied = self._loss(*part)
                one = one * (len(part[0]) / len(x0))
                one.backward()
            loss += one.detach()
            predictions.append(x0_implied)
        norm = gradient_norm(self.network.parameters(), self.max_grad_norm)
        if self.guard.allows(norm, self.state.iteration):
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update_parameters(unwrap(self.network))
        output: dict[str, Tensor] = {Keys.LOSS: loss, Keys.PRED: torch.cat(predictions), Keys.LABEL: x0}
        if self.guard.skipped:
            output["skipped_steps"] = torch.tensor(float(self.guard.skipped))
        return output

    def _probe(self, *part: Tensor) -> PrecisionComparison:
        """The gradient of one sample in bfloat16 against float32's; see bfloat16."""
        wrapped = self.network
        network = unwrap(self.network)

        def gradients(autocast: bool) -> dict[str, Tensor]:
            with self.precision.forced(autocast):
                self._loss(*part)[0].backward()
            return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

        self.network = network  # the processes do not exchange gradients here
        try:
            return probe_gradients(gradients, [network], self.state.device)
        finally:
            self.network = wrapped

    def _loss(self, condition: Tensor, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of one micro-batch, and the x_0 that the network found."""
        x_t = self.schedule.noised(x0, eps, t)
        times = t.to(x0.device, torch.float32, non_blocking=True)
        with torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.precision.autocast):
            output = self.network(torch.cat([condition, x_t], 1), times)
        if output.shape != x0.shape:
            raise InputError(
                f"The network must return the labels' shape {tuple(x0.shape)}, got {tuple(output.shape)}; "
                "adjust its output channels."
            )
        output = to_float32(output)
        loss = self.loss_function(output, self.schedule.target(x0, eps, t))
        return loss, self.schedule.clean(output.detach(), x_t, t)

    def _times_and_noise(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """t (B,), on the CPU, and eps like x_0."""
        times = []
        noise = x0.new_empty(x0.shape)
        for b in range(len(x0)):
            # the sampler deals the global batch out like cards, so this is the sample's number in it
            number = b * idist.get_world_size() + idist.get_rank()
            own = np.random.SeedSequence([self.seed, self.state.iteration, number]).generate_state(2, np.uint64)
            chance = torch.Generator().manual_seed(int(own[0]))
            time = torch.randint(self.schedule.steps, (), generator=chance)
            # drawn after the time, so that a share of 0 trains at the times of ever
            begins = self.first_share > 0 and float(torch.rand((), generator=chance)) < self.first_share
            times.append(torch.tensor(self.schedule.first) if begins else time)
            generator = torch.Generator(x0.device).manual_seed(int(own[1]))
            noise[b].normal_(generator=generator)
        return torch.stack(times), noise

    def _in_range(self, label: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * label

    def _gradient_sync(self, last: bool):
        """Processes exchange gradients once per step: after the last micro-batch."""
        return (
            self.network.no_sync() if isinstance(self.network, DistributedDataParallel) and not last else nullcontext()
        )
