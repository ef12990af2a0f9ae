"""Every guidance rule on one picture: a 2-D mixture whose scores are exact, sampled at the same scale under each rule.

    python examples/01_guidance_rules.py

The condition asks for the upper of two interleaved arcs. Under each panel stand fidelity (how many samples lie where 95% of the
wanted data lie), diversity (how much of the wanted data has a sample nearby), and the passes of the model per step.
"""

import itertools
from pathlib import Path

from cfg_demo import arcs
from classifier_free_guidance_pytorch import guidance

SCALE = 2.0
PANELS = {
    'no guidance': (guidance.CFG(), 1.0),
    'CFG': (guidance.CFG(), SCALE),
    'CFG in 0.15 < sigma <= 2': (guidance.CFG(), guidance.interval(SCALE, sigma=(0.15, 2.0))),
    'CFG, then rescale': (guidance.CFG().then(guidance.rescale_to_cond(0.7)), SCALE),
    'CFG, then renorm': (guidance.CFG().then(guidance.renorm_to_cond()), SCALE),
    'APG': (guidance.APG(), SCALE),
    'APG, norm 0.5, momentum -0.5': (guidance.APG(norm=0.5, momentum=-0.5), SCALE),
    'CFG-Zero*': (guidance.CFGZeroStar(), SCALE),
    'TCFG': (guidance.TCFG(), SCALE),
    'RAAG, alpha 0.5': (guidance.RAAG(alpha=0.5), SCALE),
    'Perp-Neg, lower arc negative': (guidance.PerpNeg(), SCALE),
    'Compose: upper AND NOT lower': (guidance.Compose((1.0, -0.2)), SCALE),
    'Chain: null, weaker, upper': (guidance.Chain((1.5, SCALE)), SCALE),
    'Weak model': (guidance.Weak(SCALE - 1), SCALE),
    'CFG + weak model': (guidance.CFG() + guidance.Weak(1.0), SCALE),
    'Adaptive guidance': (guidance.Adaptive(guidance.CFG(), threshold=0.9999), SCALE),
    'Delta reuse, every 2': (guidance.ReuseDelta(guidance.CFG(), every=2), SCALE),
    'FDG, the axes as a signal': (guidance.FDG((SCALE, 1.5)), SCALE),
    'ADG': (guidance.ADG(), SCALE),
    'SMC-CFG, k 0.002': (guidance.SMCCFG(lam=5.0, k=0.002), SCALE),
    'Mahiro': (guidance.Mahiro(), SCALE),
    'HiGS around CFG, weight 0.2': (guidance.HiGS(guidance.CFG(), weight=0.2), SCALE),
    'CFG, beta schedule': (guidance.CFG(), guidance.beta(SCALE)),
    'CFG, exponential schedule': (guidance.CFG(), guidance.exponential(1.5)),
}


def sample(rule, scale, count, steps):
    """Sample under a rule with Euler steps; return the points `(count, 2)` and the passes of the model per step."""
    x, state, passes = arcs.start(count), rule.init_state(), 0
    for step, (sigma, next_sigma) in enumerate(itertools.pairwise(arcs.noise_levels(steps))):
        progress = step / steps
        now = scale(progress, sigma=sigma) if isinstance(scale, guidance.Schedule) else scale
        made = arcs.predictions(rule, rule.branches(now, state, progress), x, sigma)  # no pass that the rule does not ask for
        passes += sum(len(one) if isinstance(one, tuple) else 1 for one in made.values())
        clean = rule(**made, scale=now, state=state, x=x, sigma=sigma, progress=progress)
        x = clean + next_sigma / sigma * (x - clean)
    return x, passes / steps


def main(steps=60, samples=1500, out='runs/examples/guidance_rules.png'):
    """Sample under every rule; return the panels."""
    panels = []
    for title, (rule, scale) in PANELS.items():
        points, passes = sample(rule, scale, samples, steps)
        panels.append(panel := arcs.Panel(title, points, *arcs.measure(points), passes))
        print(f'{title:32} fidelity {panel.fidelity:6.1%}   diversity {panel.diversity:6.1%}   {passes:.2f} passes per step')
    arcs.save_panels(Path(out), panels, SCALE)
    return panels


if __name__ == '__main__':
    main()
