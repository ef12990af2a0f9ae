"""CLIP's prompts in chunks, and words with weights: held to transformers and open_clip, chunk by chunk by hand."""

import copy
import pickle
import re
import warnings

import pytest
import torch
import torch.nn.functional as F

from classifier_free_guidance_pytorch import AttentionTextConditioner, TextEncoding
from classifier_free_guidance_pytorch.corpus import TextEmbedder
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import build_encoder, identity_of
from classifier_free_guidance_pytorch.text.hugging_face import HFTextAdapter
from classifier_free_guidance_pytorch.text.open_clip import OpenClipAdapter
from classifier_free_guidance_pytorch.text.word_weights import find_words, read_written

SHORT = 'a red ball'
LONG = ' '.join(['the tiny green circle chasing after a yellow triangle above the large blue square'] * 3)
TEXTS = [SHORT, LONG, '']


class HF:
    """transformers' own CLIP, and its tokenizer."""

    def __init__(self, hub, layer=-1):
        import transformers

        self.folder, self.layer, self.length = hub.hf_clip(), layer, 24
        self.model = transformers.CLIPModel.from_pretrained(self.folder).text_model.eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        self.start, self.end = self.tokenizer('')['input_ids']
        self.pad = self.tokenizer.pad_token_id

    def ours(self, **options):
        return HFTextAdapter(self.folder, pooling='eos', layer=self.layer, **options)

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)['input_ids']

    @torch.no_grad()
    def run(self, ids):
        """Tokens `(n, d)` and the pooled feature `(d,)` of one chunk, without padding."""
        tokens = self.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[self.layer][0]
        if self.layer == -1:
            tokens = self.model.final_layer_norm(tokens)
        return tokens, tokens[ids.index(self.end)]


class OpenClip:
    """open_clip's own CLIP, and its tokenizer."""

    def __init__(self, hub):
        import open_clip

        self.length = 20
        checkpoint = hub.clip() / 'open_clip_model.safetensors'
        self.model = open_clip.create_model('ViT-B-32', str(checkpoint)).eval()
        self.tokenizer = open_clip.get_tokenizer('ViT-B-32')
        self.start, self.end, self.pad = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id, 0

    def ours(self, **options):
        return OpenClipAdapter(**options)

    def ids(self, text):
        return self.tokenizer.encode(text)

    @torch.no_grad()
    def run(self, ids):
        seen = []
        handle = self.model.ln_final.register_forward_hook(lambda module, inputs, output: seen.append(output))
        padded = torch.tensor([ids + [self.pad] * (self.length - len(ids))])
        pooled = self.model.encode_text(padded, normalize=True)[0]
        handle.remove()
        return seen[0][0, : len(ids)], pooled


@pytest.fixture(params=['hf', 'hf -2', 'open_clip'])
def clip(request, hub):
    return OpenClip(hub) if request.param == 'open_clip' else HF(hub, layer=int(request.param[2:] or -1))


def by_hand(clip, text, chunks):
    """The tokens of all chunks in a row, and the pooled feature of the first."""
    ids, room = clip.ids(text), clip.length - 2
    read = [clip.run([clip.start, *ids[i : i + room], clip.end]) for i in range(0, max(len(ids), 1), room)][:chunks]
    return torch.cat([tokens for tokens, _ in read]), read[0][1]


def assert_row(encoding, row, tokens, pooled):
    mask = encoding.mask[row]
    assert mask.sum() == len(tokens)
    assert mask[: len(tokens)].all()
    torch.testing.assert_close(encoding.tokens[row][mask], tokens, rtol=1e-4, atol=1e-5)
    assert not encoding.tokens[row][~mask].any()
    torch.testing.assert_close(encoding.pooled[row], pooled, rtol=1e-4, atol=1e-5)


# chunks


def test_long_prompts_are_read_chunk_by_chunk(clip):
    assert clip.length < len(clip.ids(LONG)) < 3 * clip.length
    encoder = clip.ours(chunks=3)
    assert encoder.max_text_len == 3 * clip.length
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        encoding = encoder.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        assert_row(encoding, row, *by_hand(clip, text, chunks=3))
    assert encoding.tokens.shape[1] == encoding.mask.sum(dim=1).max()
    alone = encoder.encode([LONG])
    torch.testing.assert_close(alone.tokens[0], encoding.tokens[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('words', [17, 18, 19, 21, 22, 23, 36, 44])
def test_every_length_around_the_end_of_a_chunk(clip, words):
    text = ' '.join(['ball'] * words)
    assert_row(clip.ours(chunks=3).encode([text]), 0, *by_hand(clip, text, chunks=3))


def test_prompts_that_fit_are_read_as_without_chunks(clip):
    plain, chunked = (clip.ours(**options).encode([SHORT, '']) for options in ({}, {'chunks': 4}))
    assert torch.equal(plain.mask, chunked.mask)
    torch.testing.assert_close(plain.tokens, chunked.tokens)
    torch.testing.assert_close(plain.pooled, chunked.pooled)


def test_what_exceeds_the_chunks_is_cut_with_a_warning(clip):
    with pytest.warns(UserWarning, match=f'reads at most {2 * clip.length} tokens .* or raise chunks, to read them in parts'):
        encoding = clip.ours(chunks=2).encode([SHORT, ' '.join([LONG] * 3)])
    assert_row(encoding, 1, *by_hand(clip, ' '.join([LONG] * 3), chunks=2))
    with pytest.warns(UserWarning, match=f'reads at most {clip.length} tokens .* or raise chunks'):
        assert clip.ours().encode([LONG]).mask.sum() == clip.length, 'the default stays the limit of the model'


def test_max_length_is_that_of_a_chunk(clip):
    encoder = clip.ours(chunks=4, max_length=10)
    assert encoder.max_text_len == 40
    clip.length = 10
    if isinstance(clip, OpenClip):
        clip.run = lambda ids, run=clip.run: (setattr(clip, 'length', 20), run(ids), setattr(clip, 'length', 10))[1]
    with pytest.warns(UserWarning, match='reads at most 40 tokens'):
        assert_row(encoder.encode([LONG]), 0, *by_hand(clip, LONG, chunks=4))


def test_half_of_a_batch_of_token_ids(clip):
    encoder = clip.ours(chunks=3)
    whole, parts = encoder.encode(TEXTS), encoder.tokenize(TEXTS)
    for rows in ([0, 2], [1], [2, 1]):
        some = encoder.encode_ids(*(part[rows] for part in parts))
        longest = some.tokens.shape[1]
        assert longest == whole.mask[rows].sum(dim=1).max()
        torch.testing.assert_close(some.tokens, whole.tokens[rows][:, :longest])
        torch.testing.assert_close(some.pooled, whole.pooled[rows])


# weights


def weighed(clip, text, weights, chunks=1):
    """The rule of ComfyUI, a token at a time, in float64; `weights` by the position of a word's token."""
    tokens, pooled = by_hand(clip, text, chunks)
    empty, _ = clip.run([clip.start, clip.end, *[clip.pad] * (clip.length - 2)])
    moved = tokens.double()
    for place, weight in weights.items():
        z0 = empty[place % clip.length].double()
        moved[place] = z0 + weight * (tokens[place].double() - z0)
    return moved.float(), pooled


def position(clip, text, words):
    """The positions of the tokens of some words, each of one token, in a text of one chunk."""
    ids = clip.ids(text)
    return [ids.index(one) + 1 for one in clip.ids(words)]


def test_a_weight_moves_a_word_away_from_the_empty_prompt(clip):
    text = 'the tiny green circle above a yellow triangle'
    one, two = position(clip, text, 'green'), position(clip, text, 'yellow triangle')
    encoding = clip.ours().encode([text, text, text], word_weights=[{'green': 1.3, 'yellow triangle': 0.5}, None, {'green': -1}])
    assert_row(encoding, 0, *weighed(clip, text, {one[0]: 1.3, two[0]: 0.5, two[1]: 0.5}))
    assert_row(encoding, 1, *by_hand(clip, text, 1))
    assert_row(encoding, 2, *weighed(clip, text, {one[0]: -1.0}))
    assert not torch.allclose(encoding.tokens[0], encoding.tokens[1], atol=1e-2)


def test_weights_in_later_chunks(clip):
    places = [i + 1 + 2 * (i // (clip.length - 2)) for i, one in enumerate(clip.ids(LONG)) if one == clip.ids('yellow')[0]]
    assert len(places) == 3
    assert places[-1] > clip.length
    encoding = clip.ours(chunks=3).encode([SHORT, LONG], word_weights=[{}, {'yellow': 1.7}])
    assert_row(encoding, 1, *weighed(clip, LONG, dict.fromkeys(places, 1.7), chunks=3))


def test_a_weight_of_zero_leaves_the_empty_prompt(clip):
    (place,) = position(clip, SHORT, 'red')
    empty, _ = clip.run([clip.start, clip.end, *[clip.pad] * (clip.length - 2)])
    encoding = clip.ours().encode([SHORT], word_weights=[{'red': 0}])
    torch.testing.assert_close(encoding.tokens[0, place], empty[place], rtol=1e-4, atol=1e-5)


def test_weights_of_one_change_nothing(clip):
    """Not a bit of it, wherever a weighted part begins and ends: inside of a word, too."""
    plain = clip.ours().encode(['a red ball', SHORT])
    ones = clip.ours().encode(['a red ball', SHORT], word_weights=[{'red': 1, 'ball': 1.0}, {'a red ball': 1}])
    written = clip.ours(parse_weights=True).encode(['a (red:1) ball', 'a re(d:1) b(a:1.0)ll'])
    for other in (ones, written):
        assert torch.equal(plain.mask, other.mask)
        torch.testing.assert_close(plain.tokens, other.tokens)
        torch.testing.assert_close(plain.pooled, other.pooled)
    beside = clip.ours().encode(['a red ball', SHORT], word_weights=[{'red': 3}, {'red': 1}])
    assert torch.equal(beside.tokens[1], ones.tokens[1]), 'what is beside a weighted text'


def test_texts_are_read_as_they_are_by_default(clip):
    marked = 'a (red:1.3) ball'
    assert_row(clip.ours().encode([marked]), 0, *by_hand(clip, marked, 1))
    assert len(clip.ids(marked)) > len(clip.ids(SHORT))


def test_written_weights_where_they_are_asked_for(clip):
    encoder = clip.ours(parse_weights=True)
    found = encoder.encode(['a (red:1.3) ball', 'a (red ball:0.5)', SHORT])
    given = clip.ours().encode([SHORT] * 3, word_weights=[{'red': 1.3}, {'red ball': 0.5}, {}])
    assert torch.equal(found.mask, given.mask)
    torch.testing.assert_close(found.tokens, given.tokens)
    both = encoder.encode(['a (red:1.5) ball'], word_weights=[{'red ball': 2}])
    torch.testing.assert_close(both.tokens, clip.ours().encode([SHORT], word_weights=[{'red': 3, 'ball': 2}]).tokens)


def test_a_part_of_a_word_weighs_all_of_its_tokens(clip):
    found = clip.ours(parse_weights=True).encode(['a re(d:1.3) ball', 'a (re:1.3)d ball', 'a ( :9) red ball'])
    given = clip.ours().encode([SHORT], word_weights=[{'red': 1.3}])
    torch.testing.assert_close(found.tokens[1], given.tokens[0])
    torch.testing.assert_close(found.tokens[0], given.tokens[0])
    torch.testing.assert_close(found.tokens[2], clip.ours().encode([SHORT]).tokens[0])


@pytest.mark.parametrize(
    ('text', 'plain', 'parts'),
    [
        ('a (dog:1.3) runs', 'a dog runs', [('dog', 1.3)]),
        ('(a:2)(b:.5)', 'ab', [('a', 2.0), ('b', 0.5)]),
        ('(a dog : -1 )', 'a dog ', [('a dog ', -1.0)]),
        ('a (dog) [cat] (x:y) (:2) ((c:2))', 'a (dog) [cat] (x:y) (:2) (c)', [('c', 2.0)]),
        (r'\(a:2\) (b\) c:2)', '(a:2) (b) c:2)', []),
        ('at (10:30:2)', 'at 10:30', [('10:30', 2.0)]),
        ('', '', []),
    ],
)
def test_what_is_written_as_a_weight(text, plain, parts):
    found, where = read_written(text)
    assert found == plain
    assert [(found[part.start : part.stop], part.weight) for part in where] == parts


def test_where_a_word_is():
    assert [text[0] for text in find_words('Dog dogs hotdog dog. c++ c++', {'dog': 2.0, 'c++': 3}, 'w')] == [0, 16, 21, 25]


# what they say of themselves


def test_encodings_know_their_options(clip, tmp_path):
    plain, chunked, parsed = (clip.ours(**options) for options in ({}, {'chunks': 2}, {'parse_weights': True}))
    names = [dict(identity_of(one).settings) for one in (plain, chunked, parsed)]
    assert [{'chunks', 'parse_weights'} & set(one) for one in names] == [set(), {'chunks'}, {'parse_weights'}]
    encoding = chunked.encode([LONG[:150]])
    encoding.save(tmp_path / 'long.safetensors')
    again = TextEncoding.load(tmp_path / 'long.safetensors')
    assert again.origin == encoding.origin == identity_of(chunked)
    assert torch.equal(again.tokens, encoding.tokens)
    conditioner = AttentionTextConditioner(hidden_dims=(4,), model_types=plain)
    with pytest.raises(ConfigError, match=r'text_embeds were made by .*chunks 2.*, but this conditioner was built for'):
        conditioner(text_embeds=again)
    AttentionTextConditioner(hidden_dims=(4,), model_types=chunked)(text_embeds=again)
    conditioner(text_embeds=plain.encode([SHORT], word_weights=[{'red': 2}]))
    assert plain._weights_key() == chunked._weights_key(), 'one network serves all'


def test_copies_and_pickles(clip):
    encoder = clip.ours(chunks=2, parse_weights=True)
    expected = encoder.encode(['a (red:2) ball', LONG[:150]])
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        found = other.encode(['a (red:2) ball', LONG[:150]])
        assert torch.equal(found.tokens, expected.tokens)
        assert found.origin == expected.origin


def test_a_conditioner_and_a_corpus_read_them(hub):
    folder = hub.hf_clip()
    options = {'chunks': 3, 'parse_weights': True}
    texts = ['a (red:1.5) ball', LONG, 'a tiny dog']
    arguments = {'model_types': 'hf', 'model_names': folder, 'model_kwargs': options}
    expected = build_encoder('hf', folder, options).encode(texts)
    conditioner = AttentionTextConditioner(hidden_dims=(4,), **arguments)
    assert conditioner.max_text_len == 72
    (found,) = conditioner.encode_texts(texts)
    assert torch.equal(found.tokens, expected.tokens)
    assert not torch.equal(conditioner(texts)[0](torch.ones(3, 4, 2)), torch.zeros(3, 4, 2))
    embedded = TextEmbedder(dtype='fp32', batch_size=2, **arguments).embed(texts)['hf']
    for row in range(3):
        torch.testing.assert_close(embedded.tokens[row], expected.tokens[row][expected.mask[row]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedded.pooled, expected.pooled, rtol=1e-4, atol=1e-5)


def test_half_precision(clip):
    exact = clip.ours(chunks=3, parse_weights=True).encode(['a (red:1.5) ball', LONG])
    half = clip.ours(chunks=3, parse_weights=True, dtype=torch.bfloat16).encode(['a (red:1.5) ball', LONG])
    assert half.tokens.dtype == torch.bfloat16
    real = exact.mask
    assert F.cosine_similarity(half.tokens.float()[real], exact.tokens[real], dim=-1).min() > 0.99


# what cannot be


@pytest.mark.parametrize(
    ('word_weights', 'sentence'),
    [
        ({'red': 2}, "one entry for each text, such as [{'red': 1.3}, None], but got a dict for 1 text(s)"),
        ([{}, {}], 'but got 2 entries for 1 text(s)'),
        ('r', 'but got a str for 1 text(s)'),
        ([2.0], "word_weights[0] gives words their weights, such as {'red': 1.3}, but got a float"),
        ([{'blue': 2}], "word_weights[0] weighs 'blue', which is not in the text 'a red ball': leave it out"),
        ([{'re': 2}], "weighs 're', which is not in the text"),
        ([{' ': 2}], "word_weights[0] weighs words of the text, but got ' ' as one"),
        ([{3: 2}], 'weighs words of the text, but got 3 as one'),
        ([{'red': float('nan')}], "gives every word a finite number, 1 to change nothing, but got nan for 'red'"),
        ([{'red': '2'}], "but got '2' for 'red'"),
        ([{'red': True}], "but got True for 'red'"),
    ],
)
def test_weights_that_cannot_be(hub, word_weights, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        HFTextAdapter(hub.hf_clip()).encode([SHORT], word_weights=word_weights)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'chunks': 0}, 'chunks is the largest number of chunks that a text is cut into, at least 1, but got 0'),
        ({'chunks': 2, 'max_length': 2}, 'max_length=2 leaves no token for the words between start and end: it is at least 3'),
        ({'parse_weights': 2}, 'parse_weights=2 is of the wrong type'),
        ({'chunks': True}, 'chunks=True is of the wrong type: expected int, a whole number'),
        ({'max_length': True}, 'max_length=True is of the wrong type: expected int, a whole number'),
        ({'chunks': 2, 'template': 'see {}'}, 'chunks is for the text towers of CLIP'),
    ],
)
def test_options_that_cannot_be(hub, options, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        HFTextAdapter(hub.hf_clip(), **options)


@pytest.mark.parametrize('options', [{'chunks': 2}, {'parse_weights': True}])
def test_models_that_are_no_clip(hub, tmp_path, options):
    from tests.tiny_models import open_clip_config, register_open_clip, save_open_clip

    (name,) = options
    sentence = f'{name} is for the text towers of CLIP, which read one start, the words and one end, in order'
    for folder in (hub.bge(), hub.siglip(), hub.decoder()):
        with pytest.raises(ConfigError, match=sentence):
            HFTextAdapter(folder, **options)
    register_open_clip(tmp_path, 'tiny-both-ways', open_clip_config(no_causal_mask=True, pool_type='last'))
    checkpoint = save_open_clip(tmp_path, 'tiny-both-ways')
    with pytest.raises(ConfigError, match=sentence):
        OpenClipAdapter('tiny-both-ways', pretrained=checkpoint, **options)
    with pytest.raises(ConfigError, match=r"word_weights is for the text towers of CLIP, .* but '.*' is another kind of model"):
        HFTextAdapter(hub.bge()).encode([SHORT], word_weights=[{'red': 2}])
