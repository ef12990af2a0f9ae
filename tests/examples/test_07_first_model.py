"""The first model, with few steps."""

from __future__ import annotations

from safetensors.torch import load_file

EXAMPLE = '07_first_model'


def test_it_trains_saves_loads_and_draws(example, tmp_path, capsys):
    shares = example.main(steps=4, each=2, out=tmp_path / 'first.png', weights=tmp_path / 'new' / 'first.safetensors')
    assert list(shares) == [0.0, 1.0, 2.0, 4.0]
    assert (tmp_path / 'first.png').stat().st_size > 5_000
    assert load_file(tmp_path / 'new' / 'first.safetensors').keys() == dict(example.build().named_parameters()).keys()
    assert 'negative text' in capsys.readouterr().out
