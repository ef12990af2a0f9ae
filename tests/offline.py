"""An empty home of the Hugging Face hub, offline, whatever the machine's own settings are.

Hub clients read their environment when they are imported, so the conftests of both test suites import this module first.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

HF_HOME = Path(tempfile.mkdtemp(prefix='tiny-hub-'))
atexit.register(shutil.rmtree, HF_HOME, ignore_errors=True)
os.environ['HF_HOME'] = str(HF_HOME)
os.environ['HF_HUB_CACHE'] = str(HF_HOME / 'hub')
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'
