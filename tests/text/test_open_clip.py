"""open_clip's text towers: tokens, pooled feature, mask, activation, and the ways to name a model."""

import re
import warnings

import pytest
import torch
import torch.nn.functional as F

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError
from classifier_free_guidance_pytorch.text import build_encoder
from classifier_free_guidance_pytorch.text.open_clip import OpenClipAdapter
from tests.tiny_models import open_clip_config, register_open_clip, save_open_clip, write_json

TEXTS = ['a red ball', 'the tiny green circle chasing after a yellow triangle', '!', '']
pytestmark = pytest.mark.usefixtures('tiny_clip')


@torch.no_grad()
def reference(texts, *, quick_gelu=False, checkpoint, name='ViT-B-32'):
    """open_clip's own CLIP: the image tower included, the tokens by a hook, the pooled feature by `encode_text`."""
    import open_clip

    model = open_clip.create_model(name, str(checkpoint), force_quick_gelu=quick_gelu).eval()
    seen = {}
    module = model.ln_final if hasattr(model, 'ln_final') else model.text.ln_final
    module.register_forward_hook(lambda module, inputs, output: seen.update(tokens=output))
    pooled = model.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True)
    return seen['tokens'], pooled


def assert_like(encoding, tokens, pooled):
    torch.testing.assert_close(encoding.pooled, pooled, rtol=1e-4, atol=1e-5)
    for row, mask in enumerate(encoding.mask):
        torch.testing.assert_close(encoding.tokens[row][mask], tokens[row, : int(mask.sum())], rtol=1e-4, atol=1e-5)


def test_tokens_and_pooled_are_open_clips_own(tiny_clip):
    encoding = build_encoder('clip').encode(TEXTS)
    assert_like(encoding, *reference(TEXTS, checkpoint=tiny_clip / 'open_clip_model.safetensors'))
    torch.testing.assert_close(encoding.pooled.norm(dim=-1), torch.ones(len(TEXTS)))


def test_a_causal_tower_reads_no_further_than_the_longest_text():
    """And its mask is whole again for the next batch, as it is for anyone else who runs the tower."""
    encoder = build_encoder('clip')
    whole = encoder.model.attn_mask.clone()
    read = []
    handle = encoder.model.token_embedding.register_forward_hook(lambda module, args, output: read.append(output.shape[1]))
    short = encoder.encode(TEXTS[:1])
    both = encoder.encode(TEXTS)
    handle.remove()
    assert read == [short.mask.shape[1], both.mask.shape[1]]
    assert read[0] < read[1] < encoder.max_text_len
    assert torch.equal(encoder.model.attn_mask, whole)
    torch.testing.assert_close(both.pooled[:1], short.pooled)


def test_the_default_is_vit_b_32_with_weights_of_its_own_activation():
    encoder = build_encoder('clip')
    assert (encoder.name, encoder.pretrained, encoder.quick_gelu) == ('ViT-B-32', 'laion2b_s34b_b79k', False)
    assert (encoder.dim_latent, encoder.dim_pooled, encoder.max_text_len) == (24, 16, 20)
    assert OpenClipAdapter('ViT-B/32').name == 'ViT-B-32'


def test_start_text_and_end_tokens_are_real():
    encoder = build_encoder('clip')
    # '!' before another sign is token 0, which is also what CLIP pads with
    ids = encoder.tokenizer(['a!%'])[0]
    assert 0 in ids[: int(ids.argmax())]
    assert encoder.encode(['a red ball', '', 'a!%']).mask.sum(dim=1).tolist() == [5, 2, int(ids.argmax()) + 1]


def test_only_the_text_tower_stays():
    encoder = build_encoder('clip')
    names = dict(encoder.model.named_modules())
    assert not any('visual' in name for name in names)
    assert not any(module._forward_hooks for module in names.values())


def activations(encoder):
    return {type(module).__name__ for module in encoder.model.modules() if 'GELU' in type(module).__name__}


@pytest.mark.parametrize(
    ('pretrained', 'repository', 'activation'),
    [
        ('openai', 'timm/vit_base_patch32_clip_224.openai', 'QuickGELU'),
        ('laion400m_e32', 'timm/vit_base_patch32_clip_224.laion400m_e32', 'QuickGELU'),
        ('datacomp_xl_s13b_b90k', 'laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K', 'GELU'),
    ],
)
def test_the_activation_is_that_of_the_weights(hub, pretrained, repository, activation):
    folder = hub.add(repository, lambda folder: save_open_clip(folder, 'ViT-B-32'))
    encoder = OpenClipAdapter(pretrained=pretrained)
    checkpoint = folder / 'open_clip_model.safetensors'
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # open_clip warns where activation and weights disagree
        assert activations(encoder) == {activation}
    assert_like(encoder.encode(TEXTS), *reference(TEXTS, checkpoint=checkpoint, quick_gelu=activation == 'QuickGELU'))


def test_a_checkpoint_of_ones_own(tmp_path):
    path = save_open_clip(tmp_path, 'ViT-B-32', 'mine.safetensors')
    assert_like(OpenClipAdapter(pretrained=path).encode(TEXTS), *reference(TEXTS, checkpoint=path))
    quick = OpenClipAdapter(pretrained=path, quick_gelu=True)
    assert activations(quick) == {'QuickGELU'}
    assert_like(quick.encode(TEXTS), *reference(TEXTS, checkpoint=path, quick_gelu=True))


def test_a_checkpoint_as_open_clip_trains_it(tmp_path):
    import open_clip

    torch.save({'state_dict': open_clip.create_model('ViT-B-32').state_dict(), 'epoch': 3}, tmp_path / 'epoch_3.pt')
    encoding = OpenClipAdapter(pretrained=tmp_path / 'epoch_3.pt').encode(TEXTS)
    assert_like(encoding, *reference(TEXTS, checkpoint=tmp_path / 'epoch_3.pt'))


class Bomb:
    """What a pickle can do that holds more than weights."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_a_checkpoint_with_code_is_not_read(tmp_path):
    import open_clip

    weights = open_clip.create_model('ViT-B-32').state_dict()
    torch.save({'state_dict': weights, 'args': Bomb(tmp_path / 'ran')}, tmp_path / 'bad.pt')
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / 'script.pt')
    (tmp_path / 'cut.safetensors').write_bytes(b'cut')
    for name in ('bad.pt', 'script.pt', 'cut.safetensors'):
        with pytest.raises(
            ConfigError, match=f'{name} is no file of weights alone .*nothing else is read: convert it to safetensors'
        ):
            OpenClipAdapter(pretrained=tmp_path / name).encode(TEXTS)
    assert not (tmp_path / 'ran').exists()


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({'layer.weight': torch.zeros(2)}, tmp_path / 'other.pt')
    with pytest.raises(
        ConfigError, match=r"other.pt is no checkpoint of 'ViT-B-32': it lacks \d+ weights, such as \['ln_final.bias'"
    ):
        OpenClipAdapter(pretrained=tmp_path / 'other.pt').encode(TEXTS)


@pytest.mark.parametrize('name', ['a' * 5000, 'no\0file.pt', 'nowhere/a.pt'])
def test_a_path_that_is_none_is_named_and_the_hub_is_not_asked(name):
    with pytest.raises(ConfigError, match="is neither a file nor a tag of 'ViT-B-32': pass the path of a checkpoint"):
        OpenClipAdapter(pretrained=name)


def test_the_image_tower_is_never_built(tmp_path, monkeypatch):
    import open_clip

    path = save_open_clip(tmp_path, 'ViT-B-32')
    monkeypatch.setattr(open_clip.model, 'VisionTransformer', None)
    OpenClipAdapter(pretrained=path).encode(TEXTS)


def test_safetensors_come_first(hub, tmp_path):
    """Also where the folder of a repository holds a pickle of the same weights."""
    folder = hub.add('tiny/both', lambda folder: None)
    write_json(folder / 'open_clip_config.json', {'model_cfg': open_clip_config(), 'preprocess_cfg': {}})
    torch.save({'args': Bomb(tmp_path / 'ran')}, folder / 'open_clip_pytorch_model.bin')
    checkpoint = save_open_clip(folder, 'ViT-B-32')
    assert_like(OpenClipAdapter('hf-hub:tiny/both').encode(TEXTS), *reference(TEXTS, checkpoint=checkpoint))
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('place', ['local-dir', 'hf-hub'])
def test_a_folder_or_a_repository_with_its_own_configuration(hub, tmp_path, place):
    import open_clip

    if place == 'local-dir' and int(open_clip.__version__.split('.')[0]) < 3:
        with pytest.raises(MissingDependencyError, match="names with 'local-dir:' need open_clip_torch 3"):
            OpenClipAdapter(f'local-dir:{tmp_path}')
        return
    folder = hub.add('tiny/open-clip', lambda folder: None) if place == 'hf-hub' else tmp_path
    write_json(folder / 'open_clip_config.json', {'model_cfg': open_clip_config(), 'preprocess_cfg': {}})
    checkpoint = save_open_clip(folder, 'ViT-B-32')
    encoder = OpenClipAdapter('hf-hub:tiny/open-clip' if place == 'hf-hub' else f'local-dir:{folder}')
    assert (encoder.dim_latent, encoder.dim_pooled) == (24, 16)
    assert_like(encoder.encode(TEXTS), *reference(TEXTS, checkpoint=checkpoint))


def test_a_tower_that_reads_both_ways_and_pads_with_its_end_token(hub, tmp_path):
    """SigLIP: a Hugging Face tokenizer, no causal mask, and the last position of the padding as the summary."""
    folder = hub.siglip()
    config = open_clip_config(
        hf_tokenizer_name=str(folder), vocab_size=256, no_causal_mask=True, pool_type='last', proj_bias=True, context_length=48,
        tokenizer_kwargs={'clean': 'canonicalize'},
    )  # fmt: skip
    register_open_clip(tmp_path, 'tiny-siglip', {**config, 'custom_text': True, 'init_logit_bias': -10})
    checkpoint = save_open_clip(tmp_path, 'tiny-siglip')
    encoder = OpenClipAdapter('tiny-siglip', pretrained=checkpoint)
    encoding = encoder.encode(TEXTS)
    assert_like(encoding, *reference(TEXTS, checkpoint=checkpoint, name='tiny-siglip'))
    inner = encoder.tokenizer.tokenizer
    assert inner.pad_token_id == inner.eos_token_id
    assert encoding.mask[0].sum() == len(inner('a red ball')['input_ids'])
    torch.testing.assert_close(encoder.encode(TEXTS[:1]).pooled, encoding.pooled[:1])


def test_coca(tmp_path):
    config = open_clip_config(embed_cls=True, output_tokens=True, context_length=19)
    config['vision_cfg'].update(attentional_pool=True, attn_pooler_heads=2, output_tokens=True)
    config['multimodal_cfg'] = {'context_length': 20, 'vocab_size': 49408, 'width': 16, 'heads': 2, 'layers': 1}
    register_open_clip(tmp_path, 'coca_tiny', {**config, 'custom_text': True})
    checkpoint = save_open_clip(tmp_path, 'coca_tiny')
    import open_clip

    encoder = OpenClipAdapter('coca_tiny', pretrained=checkpoint)
    encoding = encoder.encode(TEXTS)
    model = open_clip.create_model('coca_tiny', str(checkpoint)).eval()
    with torch.no_grad():
        pooled, tokens = model.text(open_clip.get_tokenizer('coca_tiny')(TEXTS))
    assert_like(encoding, tokens, F.normalize(pooled, dim=-1))
    assert not any('text_decoder' in name for name, _ in encoder.model.named_modules())


@pytest.mark.parametrize('pooler', ['cls_pooler', 'mean_pooler'])
def test_a_hugging_face_text_tower(hub, tmp_path, pooler):
    folder = hub.bge()
    config = open_clip_config(
        hf_model_name=str(folder), hf_tokenizer_name=str(folder), hf_proj_type='mlp', hf_pooler_type=pooler, context_length=16
    )
    register_open_clip(tmp_path, f'tiny-{pooler}', config)
    checkpoint = save_open_clip(tmp_path, f'tiny-{pooler}')
    import open_clip

    encoder = OpenClipAdapter(f'tiny-{pooler}', pretrained=checkpoint)
    assert (encoder.dim_latent, encoder.dim_pooled) == (32, 16)
    encoding = encoder.encode(TEXTS[:2])
    model = open_clip.create_model(f'tiny-{pooler}', str(checkpoint)).eval()
    with torch.no_grad():
        pooled = model.encode_text(open_clip.get_tokenizer(f'tiny-{pooler}')(TEXTS[:2]), normalize=True)
    torch.testing.assert_close(encoding.pooled, pooled)
    special = 1 if pooler == 'cls_pooler' else 2  # the tower that pools its CLS token gives the tokens without it
    assert encoding.mask.sum(dim=1).tolist() == [3 + special, 9 + special]


@pytest.mark.parametrize(
    ('name', 'kwargs', 'sentence'),
    [
        ('ViT-Z-99', {}, "open_clip knows no model 'ViT-Z-99': pass one of open_clip.list_models()"),
        (None, {'pretrained': 'nothing'}, "pretrained='nothing' is neither a file nor a tag of 'ViT-B-32': pass the path of a"),
        ('ViT-L-14', {}, "'ViT-L-14' needs model_kwargs={'pretrained': ...}: pass the path of a checkpoint, or one of openai,"),
        (None, {'max_length': 21}, "max_length=21 is more than the 20 tokens that 'ViT-B-32' can read"),
        ('local-dir:/nowhere', {'pretrained': 'openai'}, "comes with its weights, so pretrained='openai' must not be given"),
    ],
)
def test_what_cannot_be_built(name, kwargs, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        OpenClipAdapter(name, **kwargs)


def test_a_configuration_without_a_text_tower(hub):
    config = {'model_cfg': {'vision_cfg': {}}}
    hub.add('tiny/image-tower', lambda folder: write_json(folder / 'open_clip_config.json', config))
    with pytest.raises(ConfigError, match=re.escape("has no text tower: it holds ['vision_cfg']")):
        OpenClipAdapter('hf-hub:tiny/image-tower')


def test_weights_that_are_not_in_the_cache():
    sentence = r"from the Hugging Face hub .*point to local files, model_kwargs=\{'pretrained': '/path/to/the/checkpoint'\}"
    with pytest.raises(MissingDependencyError, match=sentence):
        OpenClipAdapter(pretrained='laion2b_e16').encode(TEXTS)


def test_open_clip_that_is_not_installed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'open_clip', None)
    with pytest.raises(MissingDependencyError, match=r"model_types='clip' needs open_clip .*: pip install open_clip_torch"):
        OpenClipAdapter()
