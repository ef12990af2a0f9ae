"""Numbers that do not depend on whether the machine multiplies bfloat16."""

import pytest

from cfg_demo.image import settings


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """`precision='auto'` means float32 here."""
    monkeypatch.setattr(settings, 'multiplies_bfloat16', lambda device_type: False)
