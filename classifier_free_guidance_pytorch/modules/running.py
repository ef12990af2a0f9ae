"""How a part finds its condition while the module runs.

Nothing between the module and its parts hands conditions on, so they lie where both can reach them: in a `Current`, of which each
module has one, and which the hooks of its parts share. A hook knows its place among the parts and that `Current`, and nothing
else: a deep copy of the module copies the two together, and a thread sees its own conditions only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners.prepared import AnyCondFn, CondFns
from classifier_free_guidance_pytorch.decorator.outputs import entries, is_structured, with_entries
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError, warn
from classifier_free_guidance_pytorch.modules.part import Part

T = TypeVar('T')

_COMPILED_ALONE = (
    'a part that follows text finds its condition outside of the graph: compile the whole model, or its parts without '
    'fullgraph=True'
)


@dataclass(eq=False)
class Run:
    """One forward pass: its conditions, which the graph of its output keeps alive for a backward pass."""

    cond_fns: tuple[AnyCondFn, ...]


class Current:
    """The conditions of the forward pass that is running, in this thread.

    With gradient checkpointing a part runs once more in the backward pass, in whichever thread, and long after its forward pass
    has ended. Before that the gradient of the output arrives, so a hook on the output says which pass is differentiated.

    Args:
        unseen: Parts of which it is not known that a forward pass calls them.
    """

    def __init__(self, unseen: Iterable[str] = ()) -> None:
        self.unseen = set(unseen)  # parts that no run has called yet, where there was no dry run, or since they ran alone
        self.alone: set[str] = set()  # parts that have run outside of a forward pass
        self.traced: CondFns | None = None  # a compiler cannot look into a thread's own storage, and traces in one thread
        self.local = threading.local()
        self.differentiated: ref[Run] | None = None

    def found(self) -> tuple[AnyCondFn, ...] | None:
        """Return the conditions of the pass that runs here, or that is differentiated here; None outside of both.

        Raises:
            UsageError: A part is computed again, and nothing says in which pass.
        """
        if torch.compiler.is_dynamo_compiling():
            return self.traced
        running: tuple[AnyCondFn, ...] | None = getattr(self.local, 'cond_fns', None)
        if running is not None or torch._C._current_graph_task_id() == -1:  # not inside of a backward pass
            return running
        run = None if self.differentiated is None else self.differentiated()
        if run is None:
            raise UsageError(
                'a part that follows text is computed again in a backward pass that did not come through the output of the '
                'module: compute the loss from what the module returns'
            )
        return run.cond_fns

    @property
    def is_running(self) -> bool:
        """Whether a forward pass runs here."""
        if torch.compiler.is_dynamo_compiling():
            return self.traced is not None
        return getattr(self.local, 'cond_fns', None) is not None

    @property
    def learns(self) -> bool:
        """Whether the pass that runs here began with gradients."""
        return not torch.compiler.is_dynamo_compiling() and getattr(self.local, 'learns', False)

    def run(self, cond_fns: CondFns, forward: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call a function in which the parts find conditions, in this thread."""
        if torch.compiler.is_dynamo_compiling():
            before, self.traced = self.traced, cond_fns
            try:  # a graph that breaks in here gives up this function as a whole, which then runs as below
                return forward(*args, **kwargs)
            finally:
                self.traced = before
        local, learns = self.local, torch.is_grad_enabled()
        outer = getattr(local, 'cond_fns', None), getattr(local, 'learns', False)
        local.cond_fns, local.learns = tuple(cond_fns), learns  # a plain tuple is indexed without a call, at every part
        try:
            output = forward(*args, **kwargs)
        finally:
            local.cond_fns, local.learns = outer
        if self.unseen:
            self._check_unseen()
        if learns and not torch.compiler.is_exporting():
            run = Run(cond_fns)
            for tensor in output_tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._differentiate, run))  # type: ignore[no-untyped-call]
        return output

    def _check_unseen(self) -> None:
        """Refuse parts that no forward pass calls, and warn of those that ran before this one, and not in it."""
        alone, never = self.unseen & self.alone, self.unseen - self.alone
        if never:
            raise UsageError(
                f'{", ".join(map(repr, sorted(never)))} was never called in the first forward pass, so that it cannot '
                'follow a text: name a part that is called as a module'
            )
        self.unseen, self.alone = set(), set()
        warn(
            f'{", ".join(map(repr, sorted(alone)))} ran before this call of the model and not in it, as the encoder does in '
            'generate, so that no text reached it: name parts that every call of the model runs, such as those of the decoder'
        )

    def _differentiate(self, run: Run, grad: Tensor) -> None:
        self.differentiated = ref(run)

    def __deepcopy__(self, memo: dict[int, Any]) -> Current:
        return Current()

    def __reduce__(self) -> tuple[Any, ...]:
        return Current, ()


class Follow:
    """The forward hook of a part: conditions its output, or the first entry of it.

    Args:
        current: Where the conditions are.
        place: Which of them is the part's.
        name: Name of the part, for messages.
        part: How it follows the text.
    """

    def __init__(self, current: Current, place: int, name: str, part: Part) -> None:
        self.current, self.place, self.name, self.repeat_batch = current, place, name, part.repeat_batch

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the conditioned output; None, which leaves it alone, where the module itself is not running."""
        cond_fns = self.current.found()
        if cond_fns is None:
            if not torch.compiler.is_dynamo_compiling():
                self.current.alone.add(self.name)
                self.current.unseen.add(self.name)
                return None
            # A part is compiled without its module, as `compile_repeated_blocks` of diffusers does: its graph ends here.
            break_graph: Any = torch._dynamo.graph_break
            break_graph(msg=_COMPILED_ALONE)  # which is shown where it is asked for the full graph
            disable: Any = torch.compiler.disable
            return disable(self.__call__)(module, args, output)
        if module.training and not torch.is_grad_enabled() and self.current.learns:
            raise UsageError(called_without_grad(repr(self.name)))
        if self.current.unseen and not torch.compiler.is_dynamo_compiling():
            self.current.unseen.discard(self.name)
        condition: Any = cond_fns[self.place]
        times = self.repeat_batch if condition.repeat_batch == 1 else None
        try:
            if isinstance(output, Tensor):
                return _conditioned_nested(condition, output, times) if output.is_nested else condition(output, times)
            parts = entries(output) if is_structured(output) else {}
            first = next(iter(parts), None)
            if first is not None and isinstance(parts[first], Tensor):
                return with_entries(output, {**parts, first: condition(parts[first], times)})
        except ShapeError as error:
            raise ShapeError(f'at {self.name!r}: {error}') from error
        raise ConfigError(
            f'the part {self.name!r} returned a {type(output).__name__}, but a part that follows text returns a tensor, or a '
            'tuple whose first entry is one'
        )


def _conditioned_nested(condition: Any, output: Tensor, times: int | None) -> Tensor:
    """Condition sequences of unequal length, which `nn.TransformerEncoder` makes of padded ones in eval mode."""
    rows = condition(output.to_padded_tensor(0.0), times)  # (b, n, d)
    return torch.nested.as_nested_tensor([row[: len(own)] for row, own in zip(rows, output.unbind(), strict=True)])


def called_without_grad(names: str) -> str:
    """Return the sentence about parts to which nothing can be added that learns."""
    return (
        f'{names} is called under no_grad, or in a reentrant checkpoint, so that nothing added to it could learn: name a part '
        'outside of it, or checkpoint with use_reentrant=False'
    )


def output_tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, at any depth."""
    if isinstance(output, Tensor):
        yield output
    elif is_structured(output):
        for part in entries(output).values():
            yield from output_tensors(part)
