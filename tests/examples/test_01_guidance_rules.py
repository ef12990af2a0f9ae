"""The picture of all rules, with few steps and few points."""

from __future__ import annotations

EXAMPLE = '01_guidance_rules'


def test_it_runs_and_draws(example, tmp_path):
    found = example.main(steps=12, samples=120, out=tmp_path / 'pictures' / 'rules.png')
    assert (tmp_path / 'pictures' / 'rules.png').stat().st_size > 50_000
    assert [panel.title for panel in found] == list(example.PANELS)
    assert all(0 <= panel.fidelity <= 1 and 0 <= panel.diversity <= 1 for panel in found)
    fidelity = {panel.title: panel.fidelity for panel in found}
    assert fidelity['Weak model'] > fidelity['no guidance'] + 0.1, 'guidance by a weak model raises fidelity'
    passes = {panel.title: panel.passes for panel in found}
    assert (passes['no guidance'], passes['CFG'], passes['Delta reuse, every 2'], passes['CFG + weak model']) == (1, 2, 1.5, 3)
    assert 1 < passes['CFG in 0.15 < sigma <= 2'] < 2
