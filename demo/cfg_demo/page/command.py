"""A page in the browser to play with: type a prompt, choose scales and a rule, and look at what guidance does.

The page is served by this machine alone and asks nothing of the internet. It offers the models that come with the package, of
coloured shapes and of emoji, and each --model, by how the text enters it, so that ways of conditioning can be compared on one
prompt and the same seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cfg_demo.folders import needs, use_threads

EPILOG = """\
examples:
  cfg-demo page
  cfg-demo page --model runs/film/model.safetensors runs/concat/model.safetensors
  cfg-demo page --host 0.0.0.0 --port 8000                  for other machines of this network
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo page`."""
    parser.add_argument('--model', type=Path, nargs='+', default=(), metavar='FILE', help='models to offer beside those shipped')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default: %(default)s, this machine alone)')
    parser.add_argument('--port', type=int, metavar='N', help='port to listen on (default: the first free one from 7860 on)')
    parser.add_argument('--share', action='store_true', help='make a public link through a server of Gradio (default: no)')
    parser.add_argument('--device', default='cpu', help='where to draw (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")


def run(arguments: argparse.Namespace) -> None:
    """Serve the page until interrupted; every model is loaded before the page opens."""
    needs('gradio', 'the page is served')
    needs('matplotlib', 'the picture is drawn')
    needs('diffusers', 'images are sampled')
    from cfg_demo.emoji.drawing import SHIPPED as EMOJI
    from cfg_demo.image.drawing import SHIPPED
    from cfg_demo.page.page import build_page, serve

    use_threads(arguments.threads)
    page = build_page([SHIPPED, EMOJI, *arguments.model], arguments.device)
    serve(page, arguments.host, arguments.port, share=arguments.share)
