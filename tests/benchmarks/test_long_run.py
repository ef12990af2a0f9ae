"""The benchmark of long runs with few rounds: it runs, and its figures have a bar. Nothing is asked of the memory."""

from __future__ import annotations

import pytest

from benchmarks import long_run
from benchmarks.results import Result


@pytest.mark.filterwarnings("ignore:the encoder 'mini' does not know")
@pytest.mark.parametrize('what', long_run.COUNTS)
def test_every_run_has_figures_and_a_file(tmp_path, capsys, what):
    long_run.main([what, '--tiny', '--quiet', '--out', str(tmp_path)])
    private, alive = Result.read(tmp_path / f'long_run_{what}.json').figures
    assert (private.bar, alive.bar) == (long_run.FLAT, long_run.FLAT)
    assert private.value > alive.value > 0
    assert f'20 {what}: ' in capsys.readouterr().out
