"""Takes the picture of the page that the documentation shows.

python -m demo.tests.page.screenshot                     of the models that ship, to docs/pictures/page.png
python -m demo.tests.page.screenshot --model FILE --out page.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cfg_demo.emoji.drawing import SHIPPED as EMOJI
from cfg_demo.image.drawing import SHIPPED
from cfg_demo.page.page import build_page, serve
from demo.tests.page.browser import tab

PATIENCE = 10 * 60_000  # milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=Path, default=SHIPPED)
    parser.add_argument('--out', type=Path, default=Path('docs/pictures/page.png'))
    arguments = parser.parse_args()
    page = build_page([arguments.model, EMOJI])
    with tab() as opened:
        opened.set_default_timeout(PATIENCE)
        opened.goto(serve(page, block=False))
        opened.get_by_role('button', name='Draw').click()
        opened.locator('#scores [data-testid=cell-4-0]').wait_for()
        opened.wait_for_function('document.querySelector("#pictures img").complete')
        opened.mouse.move(0, 0)
        opened.screenshot(path=arguments.out, full_page=True)
    page.close()


if __name__ == '__main__':
    main()
