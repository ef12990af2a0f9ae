"""Tiny models made with the real libraries, and an encoder that needs none of them."""

from __future__ import annotations

import functools
import json
import string
import zlib
from pathlib import Path

import torch

from classifier_free_guidance_pytorch.text import TextEncoding
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

CAPTIONS = [
    f'{article} {size} {colour} {shape} {where} a {other} {thing}'
    for article in ('a', 'the', 'one')
    for size in ('small', 'large', 'tiny')
    for colour in ('red', 'green', 'blue')
    for shape in ('circle', 'square', 'dog')
    for where in ('above', 'chasing after')
    for other in ('round', 'yellow')
    for thing in ('ball', 'triangle')
]


class TinyEncoder:
    """A user's own encoder: one token per word, random but fixed features, no library behind it.

    `calls` counts the batches that were encoded.
    """

    def __init__(self, dim_latent: int = 12, dim_pooled: int = 8, max_text_len: int = 16) -> None:
        self.dim_latent = dim_latent
        self.dim_pooled = dim_pooled
        self.max_text_len = max_text_len
        self.calls = 0

    def encode(self, texts):
        self.calls += 1
        words = [text.split()[: self.max_text_len] or [''] for text in texts]
        longest = max(map(len, words))
        tokens = torch.zeros(len(texts), longest, self.dim_latent)
        mask = torch.zeros(len(texts), longest, dtype=torch.bool)
        for row, text in enumerate(words):
            mask[row, : len(text)] = True
            for column, word in enumerate(text):
                tokens[row, column] = _features(word, self.dim_latent)
        pooled = torch.stack([_features(' '.join(text), self.dim_pooled) for text in words])
        return TextEncoding(tokens, mask, pooled)


def _features(word: str, dim: int) -> torch.Tensor:
    return torch.randn(dim, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


def seeded(make):
    """Random weights that are the same in every run, without touching the test's own random state."""

    @functools.wraps(make)
    def wrapper(*args, **kwargs):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make(*args, **kwargs)

    return wrapper


class TinyHub:
    """A hub cache in the layout of huggingface_hub; every model is made once, on demand, and its folder returned."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def add(self, name: str, make) -> Path:
        """The snapshot folder of `name`, filled by `make(folder)` the first time."""
        revision = '0' * 40
        repository = self.cache / f'models--{name.replace("/", "--")}'
        snapshot = repository / 'snapshots' / revision
        if not snapshot.exists():
            repair_torchvision()
            (repository / 'refs').mkdir(parents=True)
            (repository / 'refs' / 'main').write_text(revision)
            snapshot.mkdir(parents=True)
            make(snapshot)
        return snapshot

    def t5(self, name: str = 'google/t5-v1_1-base', model_type: str = 't5') -> Path:
        return self.add(name, functools.partial(make_t5, model_type=model_type))

    def byt5(self) -> Path:
        return self.add('google/byt5-small', make_byt5)

    def bge(self) -> Path:
        return self.add('BAAI/bge-base-en-v1.5', make_bert)

    def hf_clip(self) -> Path:
        return self.add('tiny/clip', make_hf_clip)

    def siglip(self) -> Path:
        return self.add('tiny/siglip', make_siglip)

    def decoder(self) -> Path:
        return self.add('tiny/decoder', make_decoder)

    def bart(self) -> Path:
        return self.add('tiny/bart', make_bart)

    def mini(self) -> Path:
        return self.add('tiny/mini', make_mini)

    def clip(self) -> Path:
        """A tiny `ViT-B-32` in open_clip's registry, and its default weights in the cache."""
        register_open_clip(self.cache, 'ViT-B-32', open_clip_config())
        return self.add('laion/CLIP-ViT-B-32-laion2B-s34B-b79K', lambda folder: save_open_clip(folder, 'ViT-B-32'))


def words() -> list[str]:
    return sorted({word for caption in CAPTIONS for word in caption.split()})


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


def train_sentencepiece(folder: Path, **ids: int) -> None:
    import sentencepiece

    corpus = folder.parent / f'corpus-{folder.name}.txt'
    corpus.write_text('\n'.join(CAPTIONS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / 'spiece'), vocab_size=60, model_type='unigram', hard_vocab_limit=False,
        num_threads=1, minloglevel=2, **ids,
    )  # fmt: skip
    (folder / 'spiece.vocab').unlink()
    corpus.unlink()


def t5_sizes() -> dict:
    return {
        'd_model': 32, 'd_kv': 8, 'd_ff': 64, 'num_layers': 2, 'num_decoder_layers': 1, 'num_heads': 4,
        'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False, 'decoder_start_token_id': 0,
    }  # fmt: skip


@seeded
def make_t5(folder: Path, model_type: str = 't5') -> None:
    """A T5 v1.1 with a real sentencepiece model, and only that: no `tokenizer.json`, as on the hub."""
    import transformers

    train_sentencepiece(folder, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    prefix = {'t5': 'T5', 'mt5': 'MT5', 'umt5': 'UMT5'}[model_type]
    config = getattr(transformers, f'{prefix}Config')(vocab_size=256, **t5_sizes())
    getattr(transformers, f'{prefix}ForConditionalGeneration')(config).save_pretrained(folder)
    write_json(
        folder / 'tokenizer_config.json',
        {'tokenizer_class': 'T5Tokenizer', 'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>', 'extra_ids': 100,
         'model_max_length': 512},
    )  # fmt: skip
    if model_type == 'umt5':  # transformers reads its tokenizer from `tokenizer.json` alone, which is on the hub beside the model
        transformers.T5TokenizerFast.from_pretrained(folder).save_pretrained(folder)


@seeded
def make_byt5(folder: Path) -> None:
    """ByT5 reads bytes: its tokenizer has no files beside its configuration."""
    import transformers

    config = transformers.T5Config(vocab_size=384, **t5_sizes())
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    write_json(folder / 'tokenizer_config.json', {'tokenizer_class': 'ByT5Tokenizer', 'extra_ids': 125})


@seeded
def make_bert(folder: Path) -> None:
    """A BERT with a WordPiece vocabulary: words, and letters to spell the others."""
    import transformers

    letters = [prefix + letter for prefix in ('', '##') for letter in string.ascii_lowercase]
    vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *letters, *(word for word in words() if len(word) > 1)]
    (folder / 'vocab.txt').write_text('\n'.join(vocabulary))
    write_json(
        folder / 'tokenizer_config.json', {'tokenizer_class': 'BertTokenizer', 'do_lower_case': True, 'model_max_length': 32}
    )
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)


def tower_sizes(**more) -> dict:
    return {'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 4, 'intermediate_size': 64, **more}


def word_tokenizer(**tokens: str):
    """A fast tokenizer with one token per word; the special tokens come first."""
    import tokenizers
    import transformers

    vocabulary = {token: position for position, token in enumerate([*dict.fromkeys(tokens.values()), *words()])}
    unknown = tokens.get('unk_token', next(iter(vocabulary)))
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=unknown))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if {'bos_token', 'eos_token'} <= tokens.keys():
        begin, end = tokens['bos_token'], tokens['eos_token']
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f'{begin} $A {end}', special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **tokens)


@seeded
def make_hf_clip(folder: Path) -> None:
    """A whole CLIP, image tower included, whose tokenizer pads with the end token, as OpenAI's does."""
    import transformers

    begin, end = '<|startoftext|>', '<|endoftext|>'
    tokenizer = word_tokenizer(unk_token='[UNK]', bos_token=begin, eos_token=end, pad_token=end)
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder)
    ids = {'bos_token_id': tokenizer.bos_token_id, 'eos_token_id': tokenizer.eos_token_id, 'pad_token_id': tokenizer.pad_token_id}
    text = tower_sizes(vocab_size=len(tokenizer), max_position_embeddings=24, **ids)
    vision = tower_sizes(image_size=8, patch_size=4)
    transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)


@seeded
def make_siglip(folder: Path) -> None:
    """A whole SigLIP; its end token is its padding too, and it reads every text at its full length."""
    import transformers

    train_sentencepiece(folder, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    write_json(
        folder / 'tokenizer_config.json',
        {'tokenizer_class': 'SiglipTokenizer', 'eos_token': '</s>', 'pad_token': '</s>', 'unk_token': '<unk>',
         'model_max_length': 48, 'do_lower_case': True},
    )  # fmt: skip
    text = tower_sizes(
        vocab_size=256, max_position_embeddings=48, projection_size=32, bos_token_id=1, eos_token_id=1, pad_token_id=1
    )
    vision = tower_sizes(image_size=8, patch_size=4)
    transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)


@seeded
def make_decoder(folder: Path) -> None:
    """A language model whose tokenizer pads on the left, has no padding token, and adds no special tokens."""
    import transformers

    tokenizer = word_tokenizer(unk_token='<unk>', eos_token='<eos>')
    tokenizer.save_pretrained(folder)
    written = json.loads((folder / 'tokenizer_config.json').read_text())
    write_json(folder / 'tokenizer_config.json', {**written, 'padding_side': 'left'})
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, num_key_value_heads=2, **tower_sizes()
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


@seeded
def make_bart(folder: Path) -> None:
    """An encoder-decoder that is no T5."""
    import transformers

    tokenizer = word_tokenizer(bos_token='<s>', pad_token='<pad>', eos_token='</s>', unk_token='<unk>')
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder)
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=3, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=24,
    )  # fmt: skip
    transformers.BartModel(config).save_pretrained(folder)


@seeded
def make_mini(folder: Path) -> None:
    """A stand-in for the encoder in the package: the text tower alone, in half precision, words as tokens."""
    import transformers

    tokenizer = word_tokenizer(pad_token='[PAD]', unk_token='[UNK]', bos_token='[BOS]', eos_token='[EOS]')
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=24, pad_token_id=0, bos_token_id=2, eos_token_id=3, **tower_sizes()
    )  # fmt: skip
    transformers.CLIPTextModel(config).half().save_pretrained(folder)


def open_clip_config(**text) -> dict:
    """The smallest model that open_clip builds; the token width differs from that of the pooled feature."""
    return {
        'embed_dim': 16,
        'vision_cfg': {'image_size': 8, 'layers': 1, 'width': 16, 'head_width': 8, 'patch_size': 4},
        'text_cfg': {'context_length': 20, 'width': 24, 'heads': 2, 'layers': 3, **text},
    }


def register_open_clip(folder: Path, name: str, config: dict) -> None:
    """Put a configuration under a name in open_clip's registry, as its users do."""
    repair_torchvision()
    import open_clip

    folder = folder / 'open_clip_configs'
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f'{name}.json', config)
    open_clip.add_model_config(folder / f'{name}.json')


@seeded
def save_open_clip(folder: Path, name: str, filename: str = 'open_clip_model.safetensors', **options) -> Path:
    """Random weights of a registered model, as open_clip saves them."""
    import open_clip
    from safetensors.torch import save_file

    model = open_clip.create_model(name, **options)
    save_file({key: value.clone() for key, value in model.state_dict().items()}, folder / filename)
    return folder / filename
