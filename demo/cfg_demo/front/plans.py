"""What is drawn: every rule, schedule and saver that needs one text and its null condition, at a few scales each.

Left out are rules that need more than that: `PerpNeg`, `Compose` and `Chain` (further texts), `Weak` (a second model or perturbed
pass), `NAG` (attention to the text), `Learned` (a model of its own), `Logits` and `Discrete` (other models).
"""

from __future__ import annotations

from dataclasses import dataclass

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.guidance import CFG, Adaptive, CFGZeroStar, ReuseDelta, Rule, Schedule, interval

ROUGH = 0.6  # of the steps, where fewer steps are what saves


@dataclass(frozen=True)
class Plan:
    """A way to guide a sampling run.

    Args:
        name: What it is called in tables.
        kind: 'rule', 'schedule', 'saver' or 'searched'.
        rule: What combines the predictions.
        scale: Of every step, or a schedule.
        steps: Of the sampler.
    """

    name: str
    kind: str
    rule: Rule
    scale: float | Schedule
    steps: int

    def at(self, step: int, sigma: float, next_sigma: float, alpha: float, next_alpha: float) -> float:
        """Return the scale of a step."""
        if not isinstance(self.scale, Schedule):
            return self.scale
        now = {'sigma': sigma, 'next_sigma': next_sigma, 'alpha': alpha, 'next_alpha': next_alpha}
        return float(self.scale(step / self.steps, **now))


def all_plans(steps: int, *, images: bool) -> list[Plan]:
    """Return the plans for a model that predicts the velocity of a flow.

    Args:
        steps: Of the sampler, where fewer steps are not what is saved.
        images: Whether samples are images; else they are clouds of points.
    """
    return [
        *[Plan(f'{name} {scale:g}', 'rule', rule, scale, steps) for name, rule, scales in _rules(images) for scale in scales],
        *[Plan(name, 'schedule', CFG(), scale, steps) for name, scale in _schedules(images).items()],
        *_savers(steps),
        *_fewer_steps(steps, images),
    ]


def _fewer_steps(steps: int, images: bool) -> list[Plan]:
    """Return every rule, at one scale, with so few steps that guidance at all of them costs little more than none at all."""
    rough = max(1, round(ROUGH * steps))
    return [
        Plan(f'{name} {scale:g}, {rough} steps', 'saver', rule, scale, rough)
        for name, rule, scales in _rules(images)
        for scale in ((2.0,) if 2.0 in scales else scales[:1])
    ]


def _rules(images: bool) -> list[tuple[str, Rule, tuple[float, ...]]]:
    """Return rules with their names and scales, each in the space of its paper where that can be reached at pure noise."""
    cutoff = 0.05 if images else 0.0  # a spectrum is something that images have
    return [
        ('cfg', CFG(), (1.0, 1.5, 2.0, 3.0)),
        ('cfg-zero-star', CFGZeroStar(), (1.5, 2.0, 2.5, 3.0)),
        ('apg', guidance.APG().in_x0('flow'), (2.0, 3.0)),
        ('tcfg', guidance.TCFG(), (2.0, 3.0)),
        ('raag', guidance.RAAG(alpha=1.0), (2.0, 3.0)),
        ('adg', guidance.ADG().in_x0('flow'), (2.0, 3.0)),
        ('smc-cfg', guidance.SMCCFG(), (2.0, 3.0)),
        ('mahiro', guidance.Mahiro().in_x0('flow'), (2.0, 3.0)),
        ('higs', guidance.HiGS(CFG(), cutoff=cutoff).in_x0('flow'), (1.5, 2.0)),
        ('rescale', CFG().then(guidance.rescale_to_cond(0.7)).in_x0('flow'), (2.0, 3.0)),
        ('renorm', CFG().then(guidance.renorm_to_cond()).in_x0('flow'), (2.0, 3.0)),
        *([('fdg', guidance.FDG((1.0, 2.0)).in_x0('flow'), (2.0, 3.0))] if images else []),
    ]


def _schedules(images: bool) -> dict[str, Schedule]:
    """Return schedules by name; all but the intervals guide at every step."""
    found: dict[str, Schedule] = {
        f'cfg {scale:g} in {_shown(ends)}': interval(scale, sigma=ends)
        for ends in ((0.1, 0.5), (0.0, 0.5), (0.1, 0.8))
        for scale in (2.0, 3.0)
    }
    found |= {
        'cfg 2.5 in (0, 0.6]': interval(2.5, sigma=(0.0, 0.6)),
        'linear 1 to 3': guidance.linear(1.0, 3.0),
        'cosine 1 to 3': guidance.cosine(1.0, 3.0),
        'power-cosine 1 to 3': guidance.power_cosine(1.0, 3.0),
        'clamp-linear 1 to 3, 1.5': guidance.clamp_linear(1.0, 3.0, floor=1.5),
        'beta 2': guidance.beta(2.0),
        'exponential 1.5': guidance.exponential(1.5),
        'piecewise 1, 3, 1.5': guidance.piecewise((0.0, 1.0), (0.5, 3.0), (1.0, 1.5)),
    }
    # the sampler of the images does not tell the next noise level
    return found if images else found | {'cfg++ 0.3': guidance.cfg_plus_plus(0.3)}


def _savers(steps: int) -> list[Plan]:
    """Return what takes fewer passes: differences that are reused, guidance that stops, fewer steps, and these together."""
    late, short, zero = (0.1, 0.5), (0.1, 0.6), CFGZeroStar()
    middle = max(1, round(0.8 * steps))
    made: list[tuple[str, Rule, float | Schedule, int]] = [
        ('reuse(2) cfg 2', ReuseDelta(CFG(), 2), 2.0, steps),
        ('reuse(4) cfg 2', ReuseDelta(CFG(), 4), 2.0, steps),
        ('reuse(2) cfg-zero-star 2', ReuseDelta(zero, 2), 2.0, steps),
        ('reuse(4) cfg-zero-star 2', ReuseDelta(zero, 4), 2.0, steps),
        (f'reuse(2) cfg 3 in {_shown(late)}', ReuseDelta(CFG(), 2), interval(3.0, sigma=late), steps),
        (f'cfg-zero-star 3 in {_shown(late)}', zero, interval(3.0, sigma=late), steps),
        (f'reuse(2) cfg-zero-star 3 in {_shown(late)}', ReuseDelta(zero, 2), interval(3.0, sigma=late), steps),
        (f'reuse(3) cfg-zero-star 2.5 in {_shown(short)}', ReuseDelta(zero, 3), interval(2.5, sigma=short), steps),
        ('adaptive(.99) cfg 2', _adaptive(0.99), 2.0, steps),
        ('adaptive(.999) cfg 2', _adaptive(0.999), 2.0, steps),
        ('adaptive(.99) cfg 3', _adaptive(0.99), 3.0, steps),
        ('adaptive(.99) cfg 3 in (0, 0.6]', _adaptive(0.99), interval(3.0, sigma=(0.0, 0.6)), steps),
        ('adaptive(.999) cfg 2.5 in (0, 0.6]', _adaptive(0.999), interval(2.5, sigma=(0.0, 0.6)), steps),
        (f'cfg 1, {2 * steps} steps', CFG(), 1.0, 2 * steps),
        (f'reuse(2) cfg-zero-star 2, {middle} steps', ReuseDelta(zero, 2), 2.0, middle),
    ]
    return [Plan(name, 'saver', rule, scale, count) for name, rule, scale, count in made]


def _adaptive(threshold: float) -> Rule:
    """Return adaptive guidance by clean samples: of the velocities of a flow the likeness falls before it rises."""
    return Adaptive(CFG(), threshold).in_x0('flow')


def _shown(ends: tuple[float, float]) -> str:
    return f'({ends[0]:g}, {ends[1]:g}]'
