"""One guided call. Read this first.

A decorated forward is called with texts and a guidance scale. In eval mode a guidance rule says which branches it needs at this
scale: `cond` (the texts), `null` (no text, or the negative texts), `weak` (a weakened model), `conds` and `negatives` (further
texts). Each branch is one forward pass of the user's function with its own condition; all passes share every other argument. The
rule turns their predictions into one, which takes the place of the prediction in the output.

A *source* knows how a condition reaches the function. There are two: `Conditioned` for a function that receives callables, and
`ByDropProb` for one that handles texts itself and is told to drop them. A source reads and checks the texts, once, before any
pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.decorator.call import Call, Pass
from classifier_free_guidance_pytorch.decorator.outputs import at, guided_paths, put_back
from classifier_free_guidance_pytorch.errors import UsageError
from classifier_free_guidance_pytorch.guidance import BRANCHES, Predictions
from classifier_free_guidance_pytorch.guidance.checks import check_fits

_UNNAMED = frozenset(BRANCHES)  # a weak pass may have a name of its own


class Source(Protocol):
    """How conditions reach the decorated function."""

    def reads_scale(self, call: Call) -> bool:
        """Whether the text conditioner reads the guidance scale."""

    def learned_scales(self, call: Call) -> tuple[float, float] | None:
        """Return the scales at which the model guides by itself, in one pass; None for a model that has learned none."""

    def training_pass(self, call: Call) -> Pass:
        """Return the one pass of a training step, with conditional dropout."""

    def passes(self, call: Call, wanted: Sequence[str]) -> list[Pass]:
        """Return one pass per wanted branch, in their order; without any text only the pass `null`. The texts are read here."""

    def run_joined(self, call: Call, passes: Sequence[Pass]) -> list[Any] | None:
        """Return the output of every pass from one forward of the joined batch; None where they must run one by one."""


def train(source: Source, call: Call) -> Any:
    """Run one training step: a single pass, in which each sample loses its text with the drop probability."""
    call.resolve_training(source.reads_scale(call))  # refuses every keyword that has a meaning for guidance only
    return call.run(source.training_pass(call))


def guide(source: Source, call: Call) -> Any:
    """Run the passes that the rule asks for, and no others, and return the output with the guided prediction in its place."""
    keywords = call.keywords
    # settles call.rule and call.scale; the step holds state, x, sigma, alpha and progress
    step = call.resolve(source.learned_scales(call))
    rule, scale = call.rule, call.scale
    wanted = rule.wanted(scale, step)  # ('cond', 'null')
    is_zero = not wanted  # the zero steps of CFG-Zero*: a single pass, for the shape of the output and what else is in it
    wanted = wanted or ('cond',)
    # a null prediction that is wanted for its own sake: the rule does not see it, so the guided one stays what it was
    extra = ('null',) if keywords.return_unconditioned and 'null' not in wanted else ()

    passes = source.passes(call, (*wanted, *extra))  # texts are read here, and nowhere else
    outputs = run(source, call, passes)  # one forward per pass, or one for all
    if keywords.cfg_batched is not False:  # in which samples at scale 1 may have had no null pass
        step = step.but(rows=next((one.rows for one in passes if one.branch == 'null'), None))

    # One pass can be the answer by itself: nothing was asked for but the condition, the rule has done its work inside the
    # attention layers, or there is no text at all, and null + scale * (null - null) is null.
    no_text = passes[0].branch != wanted[0]
    is_answer = len(passes) == 1 and not is_zero and (keywords.is_off or rule.inside_attention or no_text)
    if is_answer and not keywords.return_unconditioned and keywords.guide is None:
        return outputs[0]

    branches = tuple([one.branch for one in passes])

    def guided(parts: list[Tensor]) -> Any:
        """Return what takes the place of the prediction, from the prediction of each pass."""
        given = predictions(branches, parts)
        if isinstance(scale, Tensor) and scale.ndim > 1:  # also one that is 1 throughout, and so not used
            check_fits(scale, parts[0])
        if is_answer:
            prediction = parts[0]
        elif is_zero:
            prediction = rule.zero(parts[0], step)
        else:
            prediction = rule.guide(given.with_null(None) if extra else given, scale, step)  # (b, ...)
        return (prediction, given.null) if keywords.return_unconditioned else prediction

    if isinstance(outputs[0], Tensor) and keywords.guide is None:
        return guided(outputs)
    paths = guided_paths(outputs[0], keywords.guide)  # by default the first entry
    if len(paths) > 1 and rule.remembers:
        raise UsageError(f'{rule!r} remembers one prediction between steps, but guide={keywords.guide!r} names {len(paths)}')
    # what is not guided comes back from every branch
    return put_back(outputs, {path: guided([at(output, path) for output in outputs]) for path in paths}, branches)


def run(source: Source, call: Call, passes: list[Pass]) -> list[Any]:
    """Return the output of every pass."""
    if len(passes) > 1 and not torch.compiler.is_compiling():
        call.share_out_caches(passes)
    outputs = source.run_joined(call, passes) if call.keywords.cfg_batched is not False and len(passes) > 1 else None
    if outputs is not None:
        return outputs
    if len(passes) == 1 or torch.compiler.is_compiling():  # versions of tensors cannot be read while tracing
        return [call.run(one) for one in passes]
    contents = call.contents()
    outputs = [call.run(passes[0])]
    call.refuse_written(contents)  # a cache, say, that the next pass would read; one pass is enough to see it
    for one in passes[1:]:
        outputs.append(call.run(one))
    return outputs


def predictions(branches: Sequence[str], parts: list[Tensor]) -> Predictions:
    """Return the predictions of all passes by their branch, of which `conds` and `negatives` may have several."""
    found: dict[str, Any] = {}
    for branch, part in zip(branches, parts, strict=True):
        found[branch] = (*found.get(branch, ()), part) if branch in ('conds', 'negatives') else part
    return Predictions(**found) if found.keys() <= _UNNAMED else Predictions.by_branch(found)
