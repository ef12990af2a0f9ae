"""What the conditioners hand out: the text feature, the callables, the conditions of one branch, and prepared conditions.

A prepared condition is of use as long as the weights it was made from stay what they are, which `WeightWatch` finds out.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from ctypes import c_char
from dataclasses import dataclass
from threading import Lock
from typing import Any, ClassVar, NamedTuple, Protocol, SupportsIndex, TypeAlias, overload
from uuid import uuid4
from weakref import ref

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.conditioners.annealing import annealed, check_annealing, kept
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.layers import Condition
from classifier_free_guidance_pytorch.layers.place import comes_and_goes
from classifier_free_guidance_pytorch.rows import Rows, detached, map_rows

Adapters: TypeAlias = tuple[Any, ...]


class TextCondReturn(NamedTuple):
    """The text feature that conditions a batch, and the mask of its tokens.

    Attributes:
        embed: `(b, d)` per text, or `(b, n, d)` per token; None for a conditioner without text.
        mask: `(b, n)`, True = a real token that may be attended to; None where the feature has no tokens.
    """

    embed: Tensor | None
    mask: Tensor | None

    @property
    def pooled(self) -> Tensor | None:
        """The pooled feature, `(b, d)`, of conditioners that hand features on as they are; None elsewhere."""
        return None


class RawTextCond(TextCondReturn):
    """The same pair, with the pooled feature beside it."""

    beside: ClassVar[tuple[str, ...]] = ('pooled',)
    pooled: Tensor | None = None

    @classmethod
    def of(cls, embed: Tensor | None, mask: Tensor | None, pooled: Tensor | None) -> Self:
        """Make the pair, and put the pooled feature beside it."""
        self = cls(embed, mask)
        self.pooled = pooled
        return self


def identity(hiddens: Tensor, repeat_batch: int | None = None) -> Tensor:
    """Return the hiddens: the callable of a conditioner that leaves them alone."""
    return hiddens


class AnyCondFn(Protocol):
    """What a conditioner returns for each of the hiddens: a `CondFn`, or the identity."""

    def __call__(self, hiddens: Tensor, repeat_batch: int | None = None) -> Tensor:
        """Return the conditioned hiddens."""


class CondFns(tuple[AnyCondFn, ...]):
    """One callable per hidden dimension, in the order of `hidden_dims`; `.text_cond` is the feature they were made from."""

    text_cond: TextCondReturn

    @classmethod
    def of(cls, fns: Iterable[AnyCondFn], text_cond: TextCondReturn) -> Self:
        """Make the tuple of callables."""
        self = cls(fns)
        self.text_cond = text_cond
        return self

    @overload
    def __getitem__(self, index: SupportsIndex) -> AnyCondFn: ...
    @overload
    def __getitem__(self, index: slice) -> CondFns: ...
    def __getitem__(self, index: SupportsIndex | slice) -> AnyCondFn | CondFns:
        """Return one callable; or, for a slice, some of them, which a decorated `super().forward` still knows as conditions."""
        if isinstance(index, slice):
            return CondFns.of(super().__getitem__(index), self.text_cond)
        return super().__getitem__(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return CondFns.of, (tuple(self), self.text_cond)

    def __deepcopy__(self, memo: dict[int, Any]) -> CondFns:
        return CondFns.of(deepcopy(tuple(self), memo), map_rows(self.text_cond, detached))


@dataclass(eq=False)
class BranchCondition(Rows):
    """All that one branch of a model (conditional, null, negative) needs to know of its texts.

    Attributes:
        layers: The condition of every conditioning layer; empty for a conditioner without layers.
        text_cond: The text feature itself, from which the layers were made.
        kinds: The branch of every kind instead, where a conditioner has several.
    """

    layers: tuple[Condition, ...]
    text_cond: TextCondReturn
    kinds: tuple[BranchCondition, ...] = ()

    @property
    def rows(self) -> int:
        embed = self.text_cond.embed
        return 1 if embed is None else embed.shape[0]


@dataclass(eq=False)
class PreparedCondition(Rows):
    """Conditions made once by `prepare`, for as many steps as you like: pass it as `text_condition=`.

    It moves with `.to(device, dtype)`, is indexed by sample, `prepared[2:4]`, can be copied and pickled, and keeps no weights
    alive. It belongs to the conditioner that made it, and is refused once that conditioner's weights have changed: at every call
    or, in a compiled model, from the next `eval()` or `load_state_dict()` on.

    Attributes:
        cond: The conditions of the texts.
        null: The conditions of the negative texts, or of no text.
        owner: Names the conditioner that made it.
        generation: Which weights it was made from.
    """

    cond: BranchCondition
    null: BranchCondition
    owner: str
    generation: int

    def __repr__(self) -> str:
        return f'PreparedCondition({len(self)} texts)'

    def __len__(self) -> int:
        return max(self.cond.rows, self.null.rows)

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> PreparedCondition:
        """Return the condition of some of the samples, always as a batch."""
        rows = [index] if isinstance(index, int) else index
        if isinstance(index, int) and not -len(self) <= index < len(self):
            raise IndexError(f'text {index} of a condition of {len(self)} texts')
        cond, null = (branch if branch.rows == 1 != len(self) else branch.index(rows) for branch in (self.cond, self.null))
        return PreparedCondition(cond, null, self.owner, self.generation)

    def annealed(
        self,
        progress: float,
        *,
        generator: torch.Generator | None = None,
        scale: float = 0.25,
        mix: float = 1.0,
        between: tuple[float, float] = (0.1, 0.4),
        samples: int | None = None,
    ) -> PreparedCondition:
        """Return the condition with noise on what the texts say, less and less of it: for more varied samples.

        Args:
            progress: Where sampling stands, from 0 (pure noise) to 1.
            generator: Where the noise comes from; the global state by default.
            scale: How large it is, as a multiple of how much the condition varies.
            mix: How much of the noisy condition gets back the mean and the standard deviation of the clean one.
            between: The progress up to which nothing but noise is left, and from which there is none.
            samples: Of a single text, how many samples are conditioned on it, each with noise of its own.

        Returns:
            A prepared condition for one step; the null condition in it is the same.

        Raises:
            ConfigError: A number out of range.

        CADS, arXiv 2310.17347, algorithm 1, with `tau_1 = 0.6` and `tau_2 = 0.9` of a time that counts down. There the noise is
        on the embedding; here it is on what each layer is told of it.
        """
        check_annealing(progress, scale, mix, between, generator, samples)
        share = kept(progress, *between)
        if samples is not None and self.cond.rows not in (1, samples):
            raise ConfigError(f'annealed: samples={samples} is for a single text, but there are {self.cond.rows}')
        cond = self.cond if samples is None else self.cond.expand(samples)
        noisy = cond.map(lambda tensor: annealed(tensor, share, scale, mix, generator))
        return PreparedCondition(noisy, self.null, self.owner, self.generation)


class _Mark(NamedTuple):
    """What changes when a weight is replaced, moved or written to."""

    known: Tensor | ref[Tensor]
    version: int | None
    dtype: torch.dtype
    start: int | None
    window: memoryview | None
    content: bytes

    @staticmethod
    def of(weight: Tensor, comes_and_goes: bool) -> _Mark:
        """Look at a weight. A tensor subclass, such as a sharded one, has no memory of its own to look at.

        Args:
            weight: The weight.
            comes_and_goes: It is offloaded or cast between calls, and is what it was at each of them.
        """
        if comes_and_goes or weight.is_meta:
            return _Mark(ref(weight), None, weight.dtype, None, None, b'')
        version = None if weight.is_inference() else weight._version
        start = weight.data_ptr() if type(weight) is nn.Parameter else None
        window = _window(weight, start) if start and weight.is_cpu else None  # 0: FSDP has sharded it away
        # the weight itself, which torch swaps in place by `swap_tensors` only while no weak reference points to it
        return _Mark(weight, version, weight.dtype, start, window, b'' if window is None else window.tobytes())


def _window(weight: Tensor, start: int) -> memoryview | None:
    """Return a view of a few values spread over a weight on the CPU; it reads what is there when it is asked."""
    letter = {1: 'B', 2: 'H', 4: 'I', 8: 'Q'}.get(weight.itemsize)
    if letter is None or not weight.is_contiguous():
        return None
    content: Any = memoryview((c_char * weight.nbytes).from_address(start)).cast('B')
    values: memoryview = content.cast(letter)
    return values[:: len(values) // 24 | 1]  # an odd step does not keep to some of the columns


def _sample_elsewhere(weights: list[Tensor]) -> list[float]:
    """Return a few values spread over each weight that is on an accelerator. This waits for the device."""
    elsewhere = [weight.detach().reshape(-1) for weight in weights if weight.device.type not in ('cpu', 'meta')]
    few = [values[:: values.numel() // 24 | 1].float() for values in elsewhere if type(values) is Tensor]
    return torch.cat(few).tolist() if few else []


class WeightWatch:
    """Counts how often the weights of one module were seen to change; a copy of the module gets a watch of its own.

    A change is a weight, a buffer or a part that was replaced, moved or written to. Writing counts a version up, except through
    `.data`, as most EMA implementations do. So on the CPU some values of every weight are compared as well. On other devices
    reading them would force a sync at every step, so there it is done by `train()` and `eval()` alone. Weights that a library
    offloads or casts between calls come back as they were. The adapters of PEFT that are active are part of the weights.

    Attributes:
        name: Names the module, for conditions that must not be used with another.
        generation: A number for the weights as they were seen last.
        device_type: Where they were seen last.
    """

    def __init__(self) -> None:
        self.name = uuid4().hex
        self.generation = 0
        self.device_type = 'cpu'
        self._adapters: Adapters = ()
        self._of_adapters: dict[Adapters, int] = {}
        self._seen: list[_Mark] = []
        self._modules: list[nn.Module | None] = []
        self._sampled: tuple[int, list[float]] = (0, [])
        self._lock = Lock()

    def look(self, module: nn.Module, closely: bool = False) -> int:
        """Return the generation of the module's weights; in a traced graph, that of the last look outside it.

        Args:
            module: Whose weights.
            closely: Compare values on an accelerator too, which waits for it.
        """
        if torch.compiler.is_compiling():
            return self.generation
        weights, adapters, modules = weights_of(module)
        if adapters != self._adapters:
            self._switch(adapters)
        if not self._same(weights, modules) and weights:  # a replica of `DataParallel` has none
            with self._lock:
                if not self._same(weights, modules):  # another thread may have been faster
                    self._count()
                    owners = [one for one in (module, *modules) if one is not None]
                    self._seen = [_Mark.of(weight, comes_and_goes(one)) for one in owners for weight in _of(one)]
                    self._modules = modules
                    self.device_type = weights[0].device.type
        if closely:
            before, values = self._sampled, _sample_elsewhere(weights)
            if before[0] == self.generation and before[1] != values:
                self._count()
            self._sampled = (self.generation, values)
        return self.generation

    def forget(self) -> None:
        """Count a change, seen or not."""
        self._seen = []
        self._count()

    def _count(self) -> None:
        """Count a change of the weights."""
        self.generation = max(self.generation, *self._of_adapters.values(), 0) + 1
        self._of_adapters = {self._adapters: self.generation}

    def _switch(self, adapters: Adapters) -> None:
        """Go to the number of the same weights with other adapters."""
        with self._lock:
            last = max(self.generation, *self._of_adapters.values(), 0)
            self._of_adapters.setdefault(self._adapters, self.generation)
            self.generation = self._of_adapters.setdefault(adapters, last + 1)
            self._adapters = adapters

    def _same(self, weights: list[Tensor], modules: list[nn.Module | None]) -> bool:
        """Whether these are the weights that were seen last, unchanged; done at every step, so written for speed."""
        if len(weights) != len(self._seen) or modules != self._modules:
            return False
        for weight, (known, version, dtype, start, window, content) in zip(weights, self._seen, strict=True):
            if known is not weight and (type(known) is not ref or known() is not weight):
                if weight.is_meta:
                    continue
                return False
            if (version is not None and weight._version != version) or weight.dtype is not dtype:
                return False
            if start is not None and weight.data_ptr() != start:
                return False
            if window is not None and window.tobytes() != content:  # read only where the weight still is
                return False
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightWatch:
        return WeightWatch()

    def __reduce__(self) -> tuple[Any, ...]:
        return WeightWatch, ()


def _of(module: nn.Module) -> list[Tensor]:
    """Return the parameters and the buffers of a module itself."""
    return [one for one in (*module._parameters.values(), *module._buffers.values()) if one is not None]


def weights_of(module: nn.Module) -> tuple[list[Tensor], Adapters, list[nn.Module | None]]:
    """Return what a module computes with: parameters and buffers, the adapters of PEFT at work in each part, and these parts."""
    weights: list[Tensor | None] = []
    adapters: Adapters = ()
    modules: list[nn.Module | None] = [module]
    for one in modules:  # done at every step, so written for speed
        if one is None:
            continue
        state = one.__dict__
        weights += state['_parameters'].values()
        weights += state['_buffers'].values()  # masks of pruning, say
        modules += state['_modules'].values()
        if '_active_adapter' in state:
            active, scaling = state['_active_adapter'], tuple(state.get('scaling', {}).items())
            adapters += ((state.get('_disable_adapters'), active if isinstance(active, str) else tuple(active), scaling),)
    return [weight for weight in weights if weight is not None], adapters, modules[1:]
