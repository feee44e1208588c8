"""The alternating trainer of all generative adversarial bundles.

MONAI's GanTrainer reuses the same reals and fakes for its critic steps and does not detach the fake; its
AdversarialTrainer requires a reconstruction loss and has neither latents nor critic steps; neither checkpoints networks
and optimisers: hence this one, on MONAI's Trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from monai.engines import Trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..core.bfloat16 import PrecisionComparison, TrainingPrecision, describe_shapes, probe_gradients
from ..core.distributed import unwrap
from ..core.errors import InputError
from ..core.gradient_guard import GradientGuard, gradient_norm
from ..core.knobs import check_training, parse_bool, parse_int
from ..core.memory import out_of_memory
from .batches import GanBatch

RESERVED = ("loss_d", "loss_g", "adversarial", "pred", "image", "skipped_steps")
PROBED = 4  # images of a batch on which bfloat16 is checked: enough for batch statistics


@contextmanager
def freeze(network: nn.Module) -> Iterator[None]:
    """Inside, no parameter of the network requires a gradient (its input still may)."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def to_float32(value: Any) -> Any:
    """Half-precision tensors (also in a list) as float32; all others unchanged."""
    if isinstance(value, (list, tuple)):
        return [to_float32(v) for v in value]
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


class AdversarialTrainer(Trainer):
    """Alternating training: one iteration is one D step on a fresh batch, and a G step at every `n_critic`-th.

    D step: real and detached fake, each its own forward (so batch statistics do not mix), plus `penalties`.
    G step: adversarial_weight x objective.generator + sum of weight x loss; D is frozen and already updated.
    Both steps of an iteration use the same generator inputs. The fake is generated once, with its graph, for both (G
    does not change in between), unless `reuse_fake` is off or micro-batches are used: then G runs again, which frees
    its graph during the D step (and updates BatchNorm statistics twice and redraws dropout).

    engine.state.output: "pred" and "image" (N, C, S), and detached 0-dim tensors (no device sync; a logger converts):
    "loss_d", the penalties by name, "loss_g", "adversarial" and each generator loss by name, unweighted. An iteration
    without a G (D) step has no G (D) entries. Once a step was not taken (see gradient_guard), "skipped_steps" counts
    such steps of both networks.

    Args:
        generator, discriminator: on `device`, or wrapped by distributed.prepare_network.
        objective: of losses.adversarial, with .discriminator(real_logits, fake_logits) and .generator(fake_logits).
        prepare_batch: (batchdata, device, non_blocking) -> GanBatch; D sees cat([condition, image], 1).
        generator_losses: name -> (weight, callable(pred, target)); target is batch.targets[name] or batch.real. A loss
            with a true `needs_target` is skipped where the batch has no target of its name.
        penalties: of losses.penalties; evaluated in full precision on the unwrapped discriminator.
        adversarial_weight: of the adversarial term in G's loss; at 0 D is not trained.
        n_critic: D steps per G step.
        accumulation_steps: number of micro-batches per batch; gradients are those of the whole batch.
        reuse_fake: generate the fake once per iteration (faster) or twice (less memory in the D step).
        max_grad_norm: clips each network's gradient to this Euclidean norm; None: no clipping.
        ema: torch.optim.swa_utils.AveragedModel of the unwrapped generator, updated after each G step.
        augmentation: training.ImageAugmentation of all that D sees, real and generated alike, with its condition; the
            penalties see the changed images; G's own losses see the fake as it is. None: D sees the images.
        amp: autocast to bfloat16 on CPU and CUDA, if a probe of the first batch finds its gradients like float32's;
            objective, losses and penalties stay in full precision.

    Raises:
        InputError: for knobs out of range, reserved loss names, or a prediction of another shape than the real image.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        generator: nn.Module,
        discriminator: nn.Module,
        g_optimizer: torch.optim.Optimizer,
        d_optimizer: torch.optim.Optimizer,
        objective: Any,
        prepare_batch: Callable[..., GanBatch],
        generator_losses: Mapping[str, Sequence] | None = None,
        penalties: Sequence[Callable] = (),
        adversarial_weight: float = 1.0,
        n_critic: int = 1,
        accumulation_steps: int = 1,
        reuse_fake: bool = True,
        max_grad_norm: float | None = None,
        ema: torch.optim.swa_utils.AveragedModel | None = None,
        amp: bool = False,
        augmentation: Callable[..., tuple[Tensor, Tensor | None]] | None = None,
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
            prepare_batch=prepare_batch,
            decollate=False,
        )
        self.generator = generator
        self.discriminator = discriminator
        self.g_optimizer = g_optimizer
        self.d_optimizer = d_optimizer
        self.objective = objective
        self.generator_losses = {name: (float(w), loss) for name, (w, loss) in (generator_losses or {}).items()}
        self.penalties = tuple(penalties)
        if getattr(objective, "needs_penalty", False) and not self.penalties:
            raise InputError(
                f"{type(objective).__name__} must have a gradient penalty, got penalties: []; put wgan_gp.yaml after "
                "overlays that have none."
            )
        self.adversarial_weight = float(adversarial_weight)
        self.n_critic = parse_int(n_critic, "n_critic", least=1)
        self.accumulation_steps = parse_int(accumulation_steps, "accumulation_steps", least=1)
        self.reuse_fake = parse_bool(reuse_fake, "reuse_fake") and self.accumulation_steps == 1
        self.max_grad_norm = max_grad_norm
        self.ema = ema
        self.augmentation = augmentation
        # not MONAI's `amp`, which makes a loss scaler (float16's tool)
        self.precision = TrainingPrecision(parse_bool(amp, "amp"))
        self.g_guard = GradientGuard("generator")
        self.d_guard = GradientGuard("discriminator")
        self._check_knobs()
        # last, since a handler may use the attributes above
        self._register_handlers(train_handlers or [])

    def _check_knobs(self) -> None:
        if self.adversarial_weight == 0 and not self.generator_losses:
            raise InputError(
                "generator_losses must name a loss where adversarial_weight is 0, got none; name one or raise "
                "adversarial_weight."
            )
        if reserved := set(self.generator_losses) & set(RESERVED):
            raise InputError(
                f"generator_losses must not use the trainer's own names {RESERVED}, got {sorted(reserved)}; "
                "rename these losses."
            )

    def checkpoint_objects(self) -> dict[str, Any]:
        """All that training changes, by name, each with state_dict and load_state_dict; networks unwrapped."""
        objects = {
            "generator": unwrap(self.generator),
            "discriminator": unwrap(self.discriminator),
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
            "precision": self.precision,
            "g_guard": self.g_guard,
            "d_guard": self.d_guard,
        }
        return objects if self.ema is None else {**objects, "ema": self.ema}

    @out_of_memory("lower batch_size, the size of patches or the width of the networks, or set amp to true")
    def _iteration(self, engine: Trainer, batchdata: Any) -> dict[str, Tensor]:
        """One D step and, at every `n_critic`-th iteration, one G step."""
        batch = self.prepare_batch(batchdata, self.state.device, self.non_blocking)
        parts = batch.split(self.accumulation_steps)
        self.generator.train()
        self.discriminator.train()
        self.precision.settle(
            describe_shapes(*batch.inputs, batch.real), lambda: self._probe(parts[0]), self.state.device
        )
        with_g_step = self.state.iteration % self.n_critic == 0
        keep_graph = with_g_step and self.reuse_fake

        output: dict[str, Tensor] = {}
        fakes: list[Tensor] = []
        if self.adversarial_weight != 0 or keep_graph or not with_g_step:
            fakes = [self._generate(part, keep_graph) for part in parts]
        if self.adversarial_weight != 0:
            output.update(self._discriminator_step(parts, [fake.detach() for fake in fakes]))
        if with_g_step:
            losses, fakes = self._generator_step(parts, fakes if keep_graph else None)
            output.update(losses)
        if skipped := self.g_guard.skipped + self.d_guard.skipped:
            output["skipped_steps"] = torch.tensor(float(skipped))
        return {**output, "pred": torch.cat([fake.detach() for fake in fakes]), "image": batch.real}

    def _discriminator_step(self, parts: list[GanBatch], fakes: list[Tensor]) -> dict[str, Tensor]:
        output = self._discriminator_gradients(parts, fakes)
        self._update(self.d_optimizer, self.discriminator, self.d_guard)
        return output

    def _generator_step(
        self, parts: list[GanBatch], fakes: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        output, images = self._generator_gradients(parts, fakes)
        if self._update(self.g_optimizer, self.generator, self.g_guard) and self.ema is not None:
            self.ema.update_parameters(unwrap(self.generator))
        return output, images

    def _discriminator_gradients(self, parts: list[GanBatch], fakes: list[Tensor]) -> dict[str, Tensor]:
        self.d_optimizer.zero_grad(set_to_none=True)
        shares = self._shares(parts)
        output: dict[str, Tensor] = {}
        for part, fake, share in zip(parts, fakes, shares):
            with self._gradient_sync(self.discriminator, part is parts[-1]):
                losses = self._discriminator_losses(part, fake)
                (losses["loss_d"] * share).backward()
            add_weighted(output, losses, share)
        return output

    def _generator_gradients(
        self, parts: list[GanBatch], fakes: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        self.g_optimizer.zero_grad(set_to_none=True)
        shares = self._shares(parts)
        output: dict[str, Tensor] = {}
        images = []
        with freeze(self.discriminator):
            for k, (part, share) in enumerate(zip(parts, shares)):
                with self._gradient_sync(self.generator, part is parts[-1]):
                    fake = self._generate(part, True) if fakes is None else fakes[k]
                    losses = self._generator_losses(part, fake)
                    (losses["loss_g"] * share).backward()
                add_weighted(output, losses, share)
                images.append(fake.detach())
        return output, images

    def _discriminator_losses(self, part: GanBatch, fake: Tensor) -> dict[str, Tensor]:
        real, real_condition = self._augmented(part.real, part.condition)
        fake, fake_condition = self._augmented(fake, part.condition)
        real_logits = self._judge(self.discriminator, real_condition, real)
        fake_logits = self._judge(self.discriminator, fake_condition, fake)
        total = self.objective.discriminator(to_float32(real_logits), to_float32(fake_logits))
        losses = {}
        for penalty in self.penalties:
            value = penalty(self._image_critic(real_condition), real, fake, self.state.iteration)
            if value is not None:
                losses[getattr(penalty, "name", type(penalty).__name__)] = value
                total = total + value
        return {"loss_d": total, **losses}

    def _generator_losses(self, part: GanBatch, fake: Tensor) -> dict[str, Tensor]:
        losses = {}
        total = torch.zeros((), device=fake.device)
        for name, (weight, loss) in self.generator_losses.items():
            if getattr(loss, "needs_target", False) and name not in part.targets:
                continue  # the real image is no target for it
            losses[name] = loss(fake, part.targets.get(name, part.real))
            total = total + weight * losses[name]
        if self.adversarial_weight != 0:
            # the unwrapped D: it gets no gradient here, so the processes have nothing to exchange
            view, condition = self._augmented(fake, part.condition)
            logits = self._judge(unwrap(self.discriminator), condition, view)
            losses["adversarial"] = self.objective.generator(to_float32(logits))
            total = total + self.adversarial_weight * losses["adversarial"]
        return {"loss_g": total, **losses}

    def _generate(self, part: GanBatch, with_graph: bool) -> Tensor:
        network = self.generator if with_graph else unwrap(self.generator)
        with torch.set_grad_enabled(with_graph), self._autocast():
            fake = to_float32(network(*part.inputs))
        if fake.shape != part.real.shape:
            raise InputError(
                f"The generator must return images of the real ones' shape {tuple(part.real.shape)}, got "
                f"{tuple(fake.shape)}; adjust its channels and scale, or the patch size."
            )
        return fake

    def _augmented(self, image: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return (image, condition) if self.augmentation is None else self.augmentation(image, condition)

    def _judge(self, discriminator: nn.Module, condition: Tensor | None, image: Tensor) -> Any:
        with self._autocast():
            return discriminator(image if condition is None else torch.cat([condition, image], 1))

    def _image_critic(self, condition: Tensor | None) -> Callable[[Tensor], Any]:
        """D as a function of the image alone, in full precision and unwrapped, for the penalties."""
        network = unwrap(self.discriminator)
        return lambda image: network(image if condition is None else torch.cat([condition, image], 1))

    def _autocast(self):
        return torch.autocast(self.state.device.type, dtype=torch.bfloat16, enabled=self.precision.autocast)

    @staticmethod
    def _shares(parts: list[GanBatch]) -> list[float]:
        total = sum(map(len, parts))
        return [len(part) / total for part in parts]

    @staticmethod
    def _gradient_sync(network: nn.Module, last: bool):
        """Processes exchange gradients once per step: after the last micro-batch."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()

    def _update(self, optimizer: torch.optim.Optimizer, network: nn.Module, guard: GradientGuard) -> bool:
        """Takes the step, unless its gradient cannot be right; returns whether it did."""
        norm = gradient_norm(network.parameters(), self.max_grad_norm)
        if allowed := guard.allows(norm, self.state.iteration):
            optimizer.step()
        return allowed

    def _probe(self, part: GanBatch) -> PrecisionComparison:
        """Both networks' gradients of a few of the batch's images in bfloat16 against float32's; see bfloat16."""
        part = part.split(-(-len(part) // PROBED))[0]
        wrapped = self.generator, self.discriminator
        # the processes do not exchange gradients here
        networks = {"generator": unwrap(self.generator), "discriminator": unwrap(self.discriminator)}

        def gradients(autocast: bool) -> dict[str, Tensor]:
            with self.precision.forced(autocast):
                fakes = [self._generate(part, True)]
                if self.adversarial_weight != 0:
                    self._discriminator_gradients([part], [fake.detach() for fake in fakes])
                self._generator_gradients([part], fakes if self.reuse_fake else None)
            named = ((f"{n}.{name}", p.grad) for n, net in networks.items() for name, p in net.named_parameters())
            return {name: gradient for name, gradient in named if gradient is not None}

        self.generator, self.discriminator = networks.values()
        try:
            return probe_gradients(gradients, networks.values(), self.state.device)
        finally:
            self.generator, self.discriminator = wrapped


def add_weighted(output: dict[str, Tensor], losses: Mapping[str, Tensor], share: float) -> None:
    """Adds a micro-batch's losses, weighted by its share of the batch and detached, to those of the whole step."""
    for name, value in losses.items():
        output[name] = output.get(name, 0.0) + value.detach() * share
