"""The page of `cfg-demo page`: what is asked for on the left, the grid of pictures and what holds of them on the right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from cfg_demo.emoji import drawing as emoji
from cfg_demo.image import drawing as shapes
from cfg_demo.image.checkpoint import load_model
from cfg_demo.image.command import NOT_CHECKED, PROMPT, as_rows
from cfg_demo.image.drawing import Drawing, Request, draw_steps
from cfg_demo.image.grid import save_grid
from cfg_demo.image.rules import RULES
from cfg_demo.image.settings import ModelSettings, one_of
from cfg_demo.page.gate import Gate, can_listen
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError

TITLE = 'Classifier-free guidance'
INTRODUCTION = f"""# {TITLE}
Columns are guidance scales: 0 ignores the prompt, 1 follows it as training did, higher scales insist. Rows are seeds.
"""
JUDGED = 'A judge that was trained on real emoji says what it sees.'
CHECKED = 'A green frame: the whole prompt holds, says a checker that reads the pictures. The table counts them for each scale.'
EXAMPLES = (
    (PROMPT, '', 0),
    ('three yellow stars on a navy background', '', 0),
    ('a large blue heart in the top left corner', '', 0),
    ('a red circle', 'a red circle at the top', 0),
    ('a cat with heart eyes in noto style', '', 1),
    ('an automobile in fluent style', '', 1),
)
STOPPED = 'Stopped.'
SCALES = '0 1 2 4 7'
MOST_SCALES, MOST_SEEDS, MOST_STEPS = 10, 8, 100
LARGEST_SCALE = 100.0
MOST_LETTERS = 300  # of a field
MOST_WAITING = 20  # requests
MOST_KNOWN = 40  # visitors of whom Gradio remembers what their page shows; it would keep ten thousand
LARGEST_SEED = 2**31 - 1
DAY = 24 * 60 * 60  # seconds; for so long a picture is kept


@dataclass(frozen=True)
class Offered:
    """A model to choose on the page.

    Args:
        name: what it is called there.
        model: what draws.
        settings: its own.
        rows: what is seen in a drawing, below a header; none where it cannot be told.
        note: what stands above these rows.
        checked: whether it draws the world that the checker reads.
    """

    name: str
    model: Any
    settings: ModelSettings
    rows: Callable[[Drawing], list[list[str]]] = as_rows
    note: str = CHECKED
    checked: bool = True


def offered(file: Path, device: str = 'cpu') -> Offered:
    """A model of a file; those that ship are called by what they draw.

    Raises:
        ConfigError: a file that holds no model.
    """
    if file == emoji.SHIPPED:
        return Offered('emoji', *emoji.load(file, device), emoji.what_is_seen, JUDGED, checked=False)
    model, settings = load_model(file, device)
    name = 'coloured shapes' if file == shapes.SHIPPED else str(Path(*file.parts[-2:]))
    return Offered(f'{name} ({settings.condition})', model, settings)


def build_page(files: Sequence[Path], device: str = 'cpu') -> gr.Blocks:
    """The page, with the models of these files to choose from.

    Raises:
        ConfigError: a file that holds no model.
    """
    models = [offered(file, device) for file in files]

    def draw_asked(
        prompt: Any, negative: Any, scales: Any, rule: Any, model: Any, steps: Any, seed: Any, seeds: Any
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        try:
            chosen = models[_whole('model', model, 0, len(models) - 1)]
            yield from _steps(chosen, read_request(prompt, negative, scales, rule, steps, seed, seeds))
        except CFGError as error:
            raise gr.Error(escape(str(error), quote=False), title='Not drawn', print_exception=False) from error

    with gr.Blocks(analytics_enabled=False, title=TITLE, delete_cache=(DAY, DAY)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                asked = _inputs([one.name for one in models])
                with gr.Row():
                    button, stop = gr.Button('Draw', variant='primary'), gr.Button('Stop')
                examples = [list(example) for example in EXAMPLES if example[2] < len(models)]
                tried = gr.Examples(examples, [*asked[:2], asked[4]], label='Prompts to try')
                for cells in tried.dataset.samples:  # a 0 by itself would be no value to Gradio, and its cell empty
                    cells[-1] = [cells[-1]]
            with gr.Column(scale=3, min_width=320):
                picture = gr.Image(
                    elem_id='pictures', format='png', interactive=False, show_label=False, buttons=['download', 'fullscreen']
                )  # fmt: skip
                note = gr.Markdown()
                table = gr.Dataframe(
                    elem_id='scores', headers=['scale', 'all', 'readable'], interactive=False, label='What holds of the prompt'
                )  # fmt: skip
        results = [picture, note, table]
        # the values come as they were sent, and `read_request` checks them: Gradio's own checks have no sentences for odd types
        starts = [button.click, asked[0].submit]
        drawn = gr.on(starts, draw_asked, asked, results, api_name='draw', preprocess=False, show_progress_on=picture)
        stop.click(lambda: STOPPED, None, note, cancels=[drawn], queue=False, api_visibility='private')
    # closed, or a direct request would draw beside the queue, and start what nothing goes on with
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)


def serve(page: gr.Blocks, host: str = '127.0.0.1', port: int | None = None, *, share: bool = False, block: bool = True) -> str:
    """Serve a page, until interrupted unless `block` is False, and return its address.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    if port is not None and not 0 < port < 2**16:
        raise ConfigError(f'port is a number from 1 to {2**16 - 1}, but got {port}')
    try:
        if not can_listen(host):  # Gradio would wait for it for ever
            raise OSError(f'{host!r} is no address of this machine')
        _, address, _ = page.launch(
            server_name=host, server_port=port, share=share, prevent_thread_lock=not block,
            theme=gr.themes.Default(primary_hue='teal'), ssr_mode=False, footer_links=[], run_history=False, quiet=not block,
            app_kwargs={'middleware': [Middleware(Gate, host=host, share=share)]}, max_file_size=1, enable_monitoring=False,
            state_session_capacity=MOST_KNOWN,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(
            f'the page cannot listen on {host}, port {port}: pass a free --port and an address of this machine as --host'
        ) from error
    return str(address)


def read_request(prompt: Any, negative: Any, scales: Any, rule: Any, steps: Any, seed: Any, seeds: Any) -> Request:
    """What the fields of the page ask for, as they were sent: by its script, or by any program.

    Raises:
        ConfigError: a field that cannot be read, or a value that cannot work, by name.

    Example:
        >>> read_request('a red circle', ' ', '1 3', 'cfg', 25, 7, 2)
        Request(prompt='a red circle', negative=None, scales=(1.0, 3.0), rule='cfg', seeds=(7, 8), steps=25, sampler=None)
    """
    prompt, negative, scales = (
        _text(name, value) for name, value in (('prompt', prompt), ('negative prompt', negative), ('scales', scales))
    )
    steps, seeds = _whole('steps', steps, 1, MOST_STEPS), _whole('pictures per scale', seeds, 1, MOST_SEEDS)
    one_of('guidance', _text('guidance', rule), tuple(RULES))
    try:
        numbers = tuple(float(word) for word in scales.replace(',', ' ').split())
    except ValueError as error:
        raise ConfigError(f'scales are numbers with spaces between them, such as "{SCALES}", but got {scales!r}') from error
    if len(numbers) > MOST_SCALES:
        raise ConfigError(f'the page draws at most {MOST_SCALES} scales at once, but got {len(numbers)}')
    if large := [number for number in numbers if abs(number) > LARGEST_SCALE]:
        raise ConfigError(f'a guidance scale is a finite number, at most {LARGEST_SCALE:g} here, but scales has {large[0]}')
    if seed is None:
        raise ConfigError('the seed is a whole number, but its field is empty')
    seed = _whole('seed', seed, 0, LARGEST_SEED)
    return Request(
        prompt, negative=negative.strip() or None, scales=numbers, rule=rule, seeds=tuple(range(seed, seed + seeds)), steps=steps
    )


def _text(name: str, value: Any) -> str:
    """The text of a field.

    Raises:
        ConfigError: something else, or more than a field takes.
    """
    if not isinstance(value, str):
        raise ConfigError(f'{name} is a text, but got {value!r:.80}')
    if len(value) > MOST_LETTERS:
        raise ConfigError(f'{name} has at most {MOST_LETTERS} letters on this page, but got {len(value):,}: make it shorter')
    return value


def _whole(name: str, value: Any, least: int, most: int) -> int:
    """The whole number of a field.

    Raises:
        ConfigError: something else, or a number out of the range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value != int(value):
        raise ConfigError(f'{name} is a whole number from {least} to {most}, but got {value!r:.80}')
    return int(value)


def _steps(chosen: Offered, request: Request) -> Iterator[tuple[Any, ...]]:
    """How far a drawing is, after each step, and what is shown of it at its end.

    Gradio closes a generator whose reader pressed Stop or has left: the drawing ends at the step that it is in.
    """
    done, total = 0, len(request.scales) * request.steps
    with closing(draw_steps(chosen.model, chosen.settings, request, checked=chosen.checked, progress=False)) as steps:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                yield shown(end.value, chosen)
                return
            done += 1
            yield gr.skip(), f'Drawing: step {done} of {total}.', gr.skip()


def shown(drawing: Drawing, by: Offered) -> tuple[Image.Image, str, dict[str, Any]]:
    """The picture, the note and the table of a drawing by one of the models."""
    png = BytesIO()
    save_grid(png, drawing)
    header, *rows = by.rows(drawing) or [['not checked']]
    return Image.open(png), by.note if rows else NOT_CHECKED, {'headers': header, 'data': rows}


def _inputs(models: Sequence[str]) -> list[gr.Component]:
    """The fields, in the order of `read_request`, with the model before the steps."""
    prompt = gr.Textbox(
        PROMPT, elem_id='prompt', label='Prompt', max_length=MOST_LETTERS,
        info='One to three coloured shapes, or an emoji and its style: noto, twemoji or fluent.',
    )  # fmt: skip
    negative = gr.Textbox(label='Negative prompt', max_length=MOST_LETTERS, info='A text to steer away from, if any.')
    with gr.Row():
        scales = gr.Textbox(SCALES, label='Scales', max_length=MOST_LETTERS, info=f'One to {MOST_SCALES} numbers, a column each.')
        rule = gr.Dropdown(list(RULES), value='cfg', label='Guidance rule', info='What combines the predictions.')
    model = gr.Dropdown(
        [(name, number) for number, name in enumerate(models)], value=0, interactive=len(models) > 1,
        label='Model', info='What draws, and how the text enters it.',
    )  # fmt: skip
    with gr.Row():
        steps = gr.Slider(1, MOST_STEPS, 25, step=1, label='Steps')
        seeds = gr.Slider(1, MOST_SEEDS, 4, step=1, label='Pictures per scale')
        seed = gr.Number(0, minimum=0, maximum=LARGEST_SEED, precision=0, label='First seed')
    return [prompt, negative, scales, rule, model, steps, seed, seeds]
