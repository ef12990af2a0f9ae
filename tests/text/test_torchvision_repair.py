"""The repair of torchvision's import, on stand-in packages: only that failure, only once, and an error otherwise."""

import subprocess
import sys

import pytest

from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text import torchvision_repair
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

LACKS_OPERATORS = """
from . import extension
import declared
declared.imports += 1
if not declared.operators:
    raise RuntimeError('operator torchvision::nms does not exist')
complete = extension.state
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a package called torchvision first on the path, and forgets the real one for the length of a test."""
    for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)

    def make(init):
        package = tmp_path / 'torchvision'
        package.mkdir()
        (package / '__init__.py').write_text(init)
        (package / 'extension.py').write_text('import declared\nstate = declared.operators\n')
        (tmp_path / 'declared.py').write_text('operators, imports = 0, 0\n')
        monkeypatch.delitem(sys.modules, 'declared', raising=False)
        import declared

        monkeypatch.setattr(
            torchvision_repair, '_declare_operators', lambda: setattr(declared, 'operators', declared.operators + 1)
        )
        return declared

    yield make
    for name in [name for name in sys.modules if name.partition('.')[0] in ('torchvision', 'declared')]:
        del sys.modules[name]


def test_missing_operators_are_declared_and_the_import_repeated_once(stand_in):
    declared = stand_in(LACKS_OPERATORS)
    repair_torchvision()
    repair_torchvision()
    import torchvision

    assert (declared.operators, declared.imports) == (1, 2)
    assert torchvision.complete == 1  # the submodule that the failed import left behind was run again, not reused


def test_a_working_torchvision_is_left_alone(stand_in):
    declared = stand_in('import declared\ndeclared.imports += 1')
    repair_torchvision()
    repair_torchvision()
    assert (declared.operators, declared.imports) == (0, 1)


@pytest.mark.parametrize('failure', ["RuntimeError('compiled with different CUDA major versions')", "ImportError('libpng')"])
def test_any_other_failure_is_an_error_with_a_way_out(stand_in, failure):
    declared = stand_in(f'raise {failure}')
    with pytest.raises(
        MissingDependencyError, match=r'torchvision is installed but cannot be imported beside torch .*(CUDA|libpng)'
    ):
        repair_torchvision()
    with pytest.raises(MissingDependencyError, match='install the torchvision that belongs to this torch, or uninstall'):
        repair_torchvision()
    assert declared.operators == 0


def test_a_repair_that_does_not_help_is_an_error(stand_in):
    declared = stand_in("import declared\ndeclared.imports += 1\nraise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(MissingDependencyError, match='operator torchvision::nms does not exist'):
        repair_torchvision()
    assert (declared.operators, declared.imports) == (1, 2)


def test_no_torchvision_is_no_problem(monkeypatch):
    monkeypatch.setattr(torchvision_repair.importlib.util, 'find_spec', lambda name: None)
    for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
        monkeypatch.delitem(sys.modules, name)
    repair_torchvision()
    assert 'torchvision' not in sys.modules


def test_the_declared_operators_are_what_the_real_import_asks_for():
    """In a fresh process, with the real torch: the shape function of torchvision's first operator can be registered."""
    program = """
import torch
from classifier_free_guidance_pytorch.text.torchvision_repair import _declare_operators
def register():
    torch.library.register_fake('torchvision::nms')(lambda dets, scores, iou_threshold: dets)
try:
    register()
except RuntimeError as error:
    assert 'operator torchvision::nms does not exist' in str(error), error
else:
    raise SystemExit('this torch no longer fails so')
_declare_operators()
_declare_operators()
register()
print('repaired')
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == 'repaired', done.stderr
