"""LoRA factors and the flat vector of them that travels.

'ffa' freezes the factors A, drawn from a public seed, and trains B alone: the mean of B times A is then the mean of
the products. 'alternate' trains B in even rounds and A in odd ones, 'full' both at once.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D

from fgrpo_secure.config.schema import Adapter
from fgrpo_secure.learning import starting_adapter
from fgrpo_secure.learning.models import BaseModel, ModelError, state_digest

FloatArray = NDArray[np.float64]


class AdaptedModel:
    """A base model with one LoRA adapter. Parameters are ordered by name, so that vectors mean the same everywhere."""

    def __init__(self, base: BaseModel, model: Any, settings: Adapter) -> None:
        self.base = base
        self.model = model
        self.settings = settings
        self.start: dict[str, torch.Tensor] | None = None  # the factors of `init_from`
        self.network = model.get_base_model()  # with the factors inside, without PEFT's outermost wrapper
        self._layers: list[tuple[Any, str, Any]] = [
            (parent, name, layer)
            for parent in model.modules()
            for name, layer in parent.named_children()
            if isinstance(layer, LoraLayer)
        ]
        named = dict(model.named_parameters())
        self._parameters = {name: named[name] for name in sorted(named) if "lora_" in name}
        self.linear_outputs = sum(  # numbers that all linear layers together make of one token
            module.weight.shape[1 if isinstance(module, Conv1D) else 0]
            for module in self.network.modules()
            if isinstance(module, torch.nn.Linear | Conv1D)
        )

    def factors(self, round_number: int) -> str:
        """Which factors round `round_number` trains and sends: "A", "B" or "AB"."""
        return self.settings.letters(round_number)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every factor, by name."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    def trainable(self, round_number: int) -> list[torch.nn.Parameter]:
        """The parameters that round `round_number` trains, in vector order; the others stop requiring gradients."""
        chosen = self._chosen(round_number)
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in chosen)
        return list(chosen.values())

    def dimension(self, round_number: int) -> int:
        """Length of the vector of round `round_number`."""
        return sum(parameter.numel() for parameter in self._chosen(round_number).values())

    def get_vector(self, round_number: int) -> FloatArray:
        """The factors of that round as a float64 vector, shape (dimension,)."""
        flat = [parameter.detach().reshape(-1) for parameter in self._chosen(round_number).values()]
        vector: FloatArray = torch.cat(flat).double().cpu().numpy()
        return vector

    def set_vector(self, round_number: int, vector: FloatArray) -> None:
        """Overwrite the factors of that round; `vector` has shape (dimension,)."""
        if vector.shape != (self.dimension(round_number),):
            raise ValueError(f"a vector of shape {vector.shape}; this round's has ({self.dimension(round_number)},)")
        position = 0
        with torch.no_grad():
            for parameter in self._chosen(round_number).values():
                part = torch.from_numpy(vector[position : position + parameter.numel()])
                parameter.copy_(part.reshape(parameter.shape))
                position += parameter.numel()

    def full_state(self) -> dict[str, torch.Tensor]:
        """All factors by name."""
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def load_full_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Overwrite all factors. ValueError if names or shapes are not this adapter's."""
        if {name: tuple(tensor.shape) for name, tensor in state.items()} != self.shapes():
            raise ValueError("the adapter's tensors do not have this model's names and shapes")
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state[name])

    def adapter_digest(self) -> bytes:
        """32 bytes that name all factors as they are."""
        return state_digest(self.full_state())

    def frozen_digest(self) -> bytes:
        """32 bytes that name the factors that no round trains."""
        frozen = {k: v for k, v in self.full_state().items() if self.settings.factors == "ffa" and "lora_A" in k}
        return state_digest(frozen)

    def context(self) -> dict[str, bytes]:
        """Digests of everything a client trains with; a round plan names exactly these."""
        return {
            "model": self.base.digest,
            "tokenizer": self.base.tokenizer_digest,
            "adapter": self.adapter_digest(),
            "frozen": self.frozen_digest(),
        }

    @contextmanager
    def reference(self) -> Iterator[None]:
        """What the KL term compares with: the adapter that the run started from, else the base model alone."""
        if self.start is None:
            with self._plain_layers():
                yield
            return
        own = self.full_state()
        self.load_full_state(self.start)
        try:
            yield
        finally:
            self.load_full_state(own)

    @contextmanager
    def thinned(self, seed: int) -> Iterator[None]:
        """With `adapter.dropout` at work, its masks from `seed` alone; nothing of it is there for sampling.

        **Why** PEFT's own dropout draws from torch's one generator, which whatever else runs in the process moves.
        """
        share = self.settings.dropout
        if not share:
            yield
            return
        device = self.network.get_input_embeddings().weight.device
        mask = _Mask(share, torch.Generator(device).manual_seed(seed))
        kept = [(layer.lora_dropout, dict(layer.lora_dropout.items())) for _, _, layer in self._layers]
        try:
            for dropouts, named in kept:
                dropouts.update(dict.fromkeys(named, mask))
            yield
        finally:
            for dropouts, named in kept:
                dropouts.update(named)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """The same function with the factors added into the weights: faster where no gradient is needed.

        The weights are put aside and put back, not subtracted from: nothing drifts. In half precision nothing is
        merged: the sum would lose the factors' small digits.
        """
        weights = [layer.base_layer.weight for _, _, layer in self._layers]
        if any(weight.dtype != torch.float32 for weight in weights):
            yield
            return
        kept = [weight.data for weight in weights]
        try:
            with torch.no_grad():
                for weight, (_, _, layer) in zip(weights, self._layers, strict=True):
                    weight.data = weight.data + layer.get_delta_weight(layer.active_adapters[0])
            with self._plain_layers():
                yield
        finally:
            for weight, data in zip(weights, kept, strict=True):
                weight.data = data

    def save(self, folder: Path) -> None:
        """A PEFT adapter folder that `peft.PeftModel.from_pretrained` loads."""
        self.model.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the model hub

    @contextmanager
    def _plain_layers(self) -> Iterator[None]:
        """Plain layers in place of LoRA layers. PEFT's own switch would also turn gradients on for frozen factors."""
        try:
            for parent, name, layer in self._layers:
                setattr(parent, name, layer.base_layer)
            yield
        finally:
            for parent, name, layer in self._layers:
                setattr(parent, name, layer)

    def _chosen(self, round_number: int) -> dict[str, torch.nn.Parameter]:
        wanted = tuple(f"lora_{letter}" for letter in self.factors(round_number))
        return {name: p for name, p in self._parameters.items() if any(part in name for part in wanted)}


class _Mask(torch.nn.Module):
    """Dropout whose draws come from a generator of its own: inverted, as torch's."""

    def __init__(self, share: float, generator: torch.Generator) -> None:
        super().__init__()
        self._share, self._generator = share, generator

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        drawn = torch.empty(inputs.shape, device=inputs.device).uniform_(generator=self._generator)
        return inputs * (drawn >= self._share).to(inputs) / (1 - self._share)


def attach(base: BaseModel, settings: Adapter, seed: int) -> AdaptedModel:
    """A model with fresh factors: A uniform as PEFT draws it, but from `seed` alone; B zero.

    With `init_from` the factors of that PEFT folder. The base's layers are replaced in place: one adapter per loaded
    base. Raises ModelError if a target is no linear layer of this model, or the folder holds another kind of adapter.
    """
    linear = _check_targets(base, settings)
    if settings.dropout and base.settings.gradient_checkpointing:
        raise ModelError(
            "adapter.dropout does not go with gradient_checkpointing: a layer computed again would draw another "
            "mask; switch one of them off"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT says int and divides
        target_modules=settings.targets if isinstance(settings.targets, str) else list(settings.targets),
        fan_in_fan_out=not linear,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # PEFT 0.21 asks Transformers 5 for a property by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = get_peft_model(base.model, config)
    model.eval()
    adapted = AdaptedModel(base, model, settings)
    adapted.load_full_state(_initial(adapted, seed))
    if settings.init_from is not None:
        _load_folder(adapted, settings)
        adapted.start = adapted.full_state()
    return adapted


def _check_targets(base: BaseModel, settings: Adapter) -> bool:
    """Whether the targets are `Linear`; otherwise they are GPT-2's `Conv1D`, a linear layer stored transposed."""
    named, output = list(base.model.named_modules()), base.model.get_output_embeddings()
    if isinstance(settings.targets, str):  # as PEFT takes them: it leaves the output layer alone
        linear = [m for _, m in named if isinstance(m, torch.nn.Linear | Conv1D) and m is not output]
        found: dict[str, list[Any]] = {settings.targets: linear}
    else:
        found = {
            target: [m for name, m in named if name == target or name.endswith("." + target)]
            for target in settings.targets
        }
    for target, modules in found.items():
        if not modules:
            raise ModelError(f"adapter.targets names {target!r}, but the model has no module of that name")
        if not all(isinstance(module, torch.nn.Linear | Conv1D) for module in modules):
            raise ModelError(f"adapter.targets names {target!r}, which is not a linear layer of this model")
        if any(module.weight is base.model.get_input_embeddings().weight for module in modules):
            raise ModelError(f"adapter.targets names {target!r}, whose weight the model shares with its embedding")
    kinds = {type(module) is Conv1D for modules in found.values() for module in modules}
    if len(kinds) > 1:
        raise ModelError("adapter.targets mixes ordinary and transposed linear layers; name only one kind")
    return not kinds.pop()


def _initial(adapted: AdaptedModel, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = adapted.full_state()
    for name in sorted(state):
        if "lora_A" in name:
            bound = state[name].shape[1] ** -0.5
            fresh = torch.empty(state[name].shape).uniform_(-bound, bound, generator=generator)
            state[name] = fresh.to(state[name])
        else:
            state[name] = torch.zeros_like(state[name])
    return state


def _load_folder(adapted: AdaptedModel, settings: Adapter) -> None:
    """Read `init_from` into the factors. Raises ModelError unless that means to PEFT what it means here."""
    saved = starting_adapter.factors(settings)
    try:
        adapted.load_full_state({name.replace(".weight", ".default.weight"): saved[name] for name in saved})
    except ValueError:
        raise ModelError(
            f"adapter.init_from {settings.init_from!r} was made for other targets or another model"
        ) from None
