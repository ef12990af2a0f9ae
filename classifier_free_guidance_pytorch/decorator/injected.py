"""Methods that receive conditions: `forward(self, x, cond_fns)`. The text is handled here, by the module's conditioner."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

from torch import Tensor

from classifier_free_guidance_pytorch.conditioners import BranchCondition, Conditioner
from classifier_free_guidance_pytorch.decorator.joined import JoinedBatch, rows_to_guide
from classifier_free_guidance_pytorch.decorator.options import Options
from classifier_free_guidance_pytorch.decorator.outputs import put_back, to_guide
from classifier_free_guidance_pytorch.decorator.passes import Call, Pass, say_once, why_not_joined
from classifier_free_guidance_pytorch.decorator.runner import Runner
from classifier_free_guidance_pytorch.decorator.signature import RAW_TEXT_COND
from classifier_free_guidance_pytorch.decorator.texts import TextInput, branch_conditions, check_text, training_branch
from classifier_free_guidance_pytorch.errors import ShapeError, UsageError


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
        if options.rule.inside_attention:
            conditioner.check_attention()
        branches = branch_conditions(conditioner, text, wanted, 'conds' in options.rule.needs_of_parts(), call.batch)
        if options.rule.inside_attention and 'null' in wanted:
            combine = partial(options.rule, scale=options.cond_scale)
            inside = conditioner.extrapolated(branches['cond'][0], branches['null'][0], combine)
            return {'cond': [call.run(Pass('cond', self.keywords(conditioner, inside, call.batch)))]}
        order = [(name, branch) for name in wanted if name != 'weak' for branch in branches[name]]
        outputs: dict[str, list[Any]] = {}
        if options.cfg_batched and len(order) > 1 and self._can_join(call):
            results = self._joined(call, conditioner, order, options)
        else:
            results = [call.run(Pass(name, self.keywords(conditioner, branch, call.batch))) for name, branch in order]
        for (name, _), result in zip(order, results, strict=True):
            outputs.setdefault(name, []).append(result)
        if 'weak' in wanted:
            outputs['weak'] = [self.weak_pass(call, text, options, self.keywords(conditioner, branches['cond'][0], call.batch))]
        return outputs

    def _can_join(self, call: Call) -> bool:
        """Whether one pass on the joined batch gives what separate passes give; says why, once, where it does not."""
        reason = why_not_joined(call.module, call.routed)
        if reason is not None:
            say_once(reason)
        return reason is None

    def _joined(
        self, call: Call, conditioner: Conditioner[Any], order: list[tuple[str, BranchCondition]], options: Options
    ) -> list[Any]:
        """The outputs of all branches, from one pass on the joined batch; of the null branch for the guided samples only."""
        if call.batch is None:
            raise ShapeError(
                'cfg_batched=True joins batches, but no tensor argument says how large the batch is: pass cfg_batched=False'
            )
        names = [name for name, _ in order]
        branches = [branch.expand(call.batch) for _, branch in order]
        rows: list[Tensor | None] = [None] * len(order)
        guided = rows_to_guide(options, names, call.batch)
        if guided is not None:
            rows[1] = guided = guided.to(conditioner.device)
            branches[1] = branches[1].map(lambda t: t[guided])
        keywords = self.keywords(conditioner, reduce(BranchCondition.joined, branches), None)
        shared = () if isinstance(options.cfg_batched, bool) else tuple(options.cfg_batched)
        return call.run_joined(keywords, JoinedBatch(call.batch, rows), shared, self.taking.positional)
