"""Methods that receive conditions: `forward(self, x, cond_fns)`. The text is handled here, by the module's conditioner."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.conditioners import BranchCondition, Conditioner
from classifier_free_guidance_pytorch.decorator.options import Options
from classifier_free_guidance_pytorch.decorator.outputs import put_back, to_guide
from classifier_free_guidance_pytorch.decorator.passes import Call, Pass, say_once, why_not_joined
from classifier_free_guidance_pytorch.decorator.runner import Runner
from classifier_free_guidance_pytorch.decorator.signature import RAW_TEXT_COND
from classifier_free_guidance_pytorch.decorator.texts import TextInput, branch_conditions, check_text, training_branch
from classifier_free_guidance_pytorch.errors import UsageError


class Injected(Runner):
    """A method that receives conditions: the text is handled here, by the module's conditioner."""

    def conditioner(self, module: Any) -> Conditioner[Any]:
        """The module's text conditioner.

        Raises:
            UsageError: it has none.
        """
        conditioner = getattr(module, self.names.text_conditioner, None)
        if not isinstance(conditioner, Conditioner):
            raise UsageError(
                f'{type(module).__name__} has no text conditioner: set self.{self.names.text_conditioner} to one, such as '
                'TextConditioner(hidden_dims=...), or decorate the class with classifier_free_guidance_class_decorator'
            )
        return conditioner

    def keywords(self, conditioner: Conditioner[Any], branch: BranchCondition, batch: int | None) -> dict[str, Any]:
        """What the method is handed: whichever of the two its signature names."""
        keywords: dict[str, Any] = {}
        if self.names.cond_fns in self.taking.injected:
            keywords[self.names.cond_fns] = branch.bound or conditioner.bind(branch)
        if RAW_TEXT_COND in self.taking.injected:
            keywords[RAW_TEXT_COND] = branch.text_cond if batch is None else branch.text_cond.expand(batch)
        return keywords

    def train(self, call: Call, text: TextInput) -> Any:
        conditioner = self.conditioner(call.module)
        check_text(conditioner, text, self.names, call.batch)
        branch = training_branch(conditioner, text, call.batch)
        return call.run(Pass('cond', self.keywords(conditioner, branch, call.batch)))

    def guide(self, call: Call, text: TextInput, options: Options) -> Any:
        conditioner = self.conditioner(call.module)
        check_text(conditioner, text, self.names, call.batch)
        if not text.is_empty:
            return super().guide(call, text, options)
        if text.has_negatives:
            raise UsageError(f'negative texts were given without texts to steer towards: pass {self.names.texts}= as well')
        output = call.run(Pass('null', self.keywords(conditioner, conditioner.null_branch(), call.batch)))
        if not options.return_unconditioned:
            return output  # null + scale * (null - null)
        prediction = to_guide(output, options.guide)
        return put_back([output], (prediction, prediction), options.guide)

    def run(self, call: Call, text: TextInput, options: Options, wanted: Sequence[str]) -> dict[str, list[Any]]:
        conditioner = self.conditioner(call.module)
        branches = branch_conditions(conditioner, text, wanted, call.batch)
        if options.rule.inside_attention and 'null' in wanted:
            combine = partial(options.rule, scale=options.cond_scale)
            inside = conditioner.extrapolated(branches['cond'][0], branches['null'][0], combine)
            return {'cond': [call.run(Pass('cond', self.keywords(conditioner, inside, call.batch)))]}
        order = [(name, branch) for name in wanted if name != 'weak' for branch in branches[name]]
        outputs: dict[str, list[Any]] = {}
        if options.cfg_batched and len(order) > 1 and self._can_join(call):
            results = self._joined(call, conditioner, [branch for _, branch in order], options)
        else:
            results = self._one_by_one(call, conditioner, order, options)
        for (name, _), result in zip(order, results, strict=True):
            outputs.setdefault(name, []).append(result)
        if 'weak' in wanted:
            outputs['weak'] = [self.weak_pass(call, text, options, self.keywords(conditioner, branches['cond'][0], call.batch))]
        return outputs

    def _one_by_one(
        self, call: Call, conditioner: Conditioner[Any], order: list[tuple[str, BranchCondition]], options: Options
    ) -> list[Any]:
        """The output of each branch from a pass of its own; the null pass only for the samples that are guided."""
        results: list[Any] = []
        guided_rows = rows_to_guide(call, options, [name for name, _ in order])
        for name, branch in order:
            if name == 'null' and guided_rows is not None and isinstance(results[0], Tensor):
                part = branch if branch.rows == 1 else branch.map(lambda t: t[guided_rows])
                null = call.of_rows(guided_rows).run(Pass(name, self.keywords(conditioner, part, len(guided_rows))))
                # at a scale of 1 any null prediction gives the conditional one, so the conditional one serves
                results.append(results[0].index_copy(0, guided_rows, null))
            else:
                results.append(call.run(Pass(name, self.keywords(conditioner, branch, call.batch))))
        return results

    def _can_join(self, call: Call) -> bool:
        """Whether one pass on the joined batch gives what separate passes give; says why, once, where it does not."""
        reason = why_not_joined(call.module, call.routed)
        if reason is not None:
            say_once(reason)
        return reason is None

    def _joined(self, call: Call, conditioner: Conditioner[Any], branches: list[BranchCondition], options: Options) -> list[Any]:
        """The outputs of all branches, from one pass on the joined batch."""
        batch = call.batch or 1
        joined = reduce(BranchCondition.joined, [branch.expand(batch) for branch in branches])
        shared = () if isinstance(options.cfg_batched, bool) else tuple(options.cfg_batched)
        return call.run_joined(self.keywords(conditioner, joined, None), len(branches), shared, self.taking.positional)


def rows_to_guide(call: Call, options: Options, branches: Sequence[str]) -> Tensor | None:
    """The indices of the samples whose scale is not 1, where the others can do without their null pass; else None.

    The scales are looked at only where that costs nothing: on the CPU, outside a traced graph.
    """
    scale, rule = options.cond_scale, options.rule
    if not isinstance(scale, Tensor) or scale.ndim != 1 or scale.device.type != 'cpu' or scale.requires_grad:
        return None
    if torch.compiler.is_compiling() or scale.shape[0] != call.batch or list(branches) != ['cond', 'null']:
        return None
    if not rule.anchored or rule.remembers or options.return_unconditioned or call.routed:
        return None
    guided = (scale != 1).nonzero().flatten()
    if call.sample is None or not 0 < len(guided) < len(scale):
        return None
    if why_not_joined(call.module, call.routed) is not None:  # a sample depends on its batch-mates
        return None
    return guided.to(call.sample.device)
