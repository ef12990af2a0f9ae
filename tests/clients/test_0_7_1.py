"""Programs that were written for release 0.7.1, as they are on the package index (`no_deps.txt`), after one line.

Models are small; everything else is as their own tests and READMEs use it. Their own suites pass as well, with the models that
those ask for.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier_free_guidance_pytorch import TextConditioner, TextEmbeddingReturner, compat
from tests.conditioners.making import TEXTS, make, make_raw, noise
from tests.tiny_models import TinyEncoder

VIT = {
    'num_classes': 10, 'dim_conv_stem': 8, 'dim': 8, 'dim_head': 8, 'depth': (1, 1), 'window_size': 2,
    'mbconv_expansion_rate': 2, 'mbconv_shrinkage_rate': 0.25, 'dropout': 0.1,
}  # fmt: skip
ROBOT = {'num_actions': 3, 'depth': 1, 'heads': 2, 'dim_head': 8, 'cond_drop_prob': 0.2}
ORDERS = ['a small red circle', 'the large blue square above a triangle']


@pytest.fixture(autouse=True)
def like_0_7_1():
    compat.like_0_7_1()
    yield
    compat.like_0_7_1(False)


# the answers themselves


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat'])
def test_calling_a_conditioner_returns_the_pair(kind):
    cond_fns, text_cond = make(kind)(TEXTS)
    assert len(cond_fns) == 1
    assert text_cond.embed.shape[0] == 3
    compat.like_0_7_1(False)
    assert make(kind)(TEXTS).text_cond.embed.shape == text_cond.embed.shape


@pytest.mark.parametrize('pad', [0.0, -1.0])
@pytest.mark.parametrize('make_one', [lambda **more: make('attention', **more), make_raw], ids=['attention', 'raw'])
def test_what_embed_texts_returns_is_a_tensor_and_finds_its_mask_again(make_one, pad):
    conditioner = make_one(text_embed_pad_value=pad)
    embed = conditioner.embed_texts(TEXTS)
    _, expected = conditioner(TEXTS)
    assert embed.detach()[0].shape == (expected.mask.shape[1], conditioner.dim_latent)
    assert (embed[~expected.mask] == pad).all()
    for embeds in (embed, torch.from_numpy(np.array(embed.detach()))):  # also from a file of arrays
        _, found = conditioner(text_embeds=embeds)
        assert torch.equal(found.mask, expected.mask)
        torch.testing.assert_close(found.embed[found.mask], expected.embed[expected.mask])


def test_a_mask_that_is_given_wins():
    conditioner = make('attention')
    mask = torch.tensor([[True, False, True]])
    assert torch.equal(conditioner(text_embeds=(torch.zeros(1, 3, 12), mask))[1].mask, mask)


def test_a_class_can_choose_for_itself():
    compat.like_0_7_1(False)

    class Old(TextEmbeddingReturner):
        mask_from_pad_value = True

    assert isinstance(Old(model_types=[TinyEncoder()]).embed_texts(TEXTS), torch.Tensor)
    assert isinstance(TextEmbeddingReturner(model_types=[TinyEncoder()]).embed_texts(TEXTS), tuple)
    assert TextConditioner.return_text_cond is False


# the programs


@pytest.mark.parametrize('use_attn_conditioner', [False, True])
def test_robotic_transformer(use_attn_conditioner):
    client = pytest.importorskip('robotic_transformer_pytorch')
    model = client.RT1(
        vit=client.MaxViT(**VIT), action_bins=5, use_attn_conditioner=use_attn_conditioner,
        conditioner_kwargs={'model_types': [TinyEncoder()]}, **ROBOT,
    )  # fmt: skip
    video = noise(2, 3, 2, 16, 16)
    model(video, ORDERS).sum().backward()
    embeds = model.embed_texts(ORDERS).detach()
    model(video, text_embeds=embeds).sum().backward()
    model.eval()
    guided = model(video, ORDERS, cond_scale=3.0)
    assert guided.shape == (2, 2, 3, 5)
    torch.testing.assert_close(model(video, text_embeds=embeds, cond_scale=3.0), guided)


@pytest.mark.parametrize('use_attn_conditioner', [False, True])
def test_rt_x(use_attn_conditioner):
    package = importlib.util.find_spec('rtx')
    if package is None:
        pytest.skip('rtx-torch is not installed')
    # the model is one file; the package imports a second model, and what that needs, beside it
    spec = importlib.util.spec_from_file_location('rtx1', Path(package.submodule_search_locations[0]) / 'rtx1.py')
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    vit = client.FilmMaxVit(
        client.FilmViTConfig(
            num_classes=10, stem_channels_in=8, dim_head=8, block_channel_ins=[8, 16], block_layers=[1, 1], window_size=2
        )
    )
    config = client.RT1Config(**ROBOT, action_bins=5, use_attn_conditioner=use_attn_conditioner)
    model = client.RT1(config, vit, {'model_types': [TinyEncoder()]})
    video = noise(2, 3, 2, 16, 16)
    model(video, ORDERS).sum().backward()
    embeds = model.eval().embed_texts(ORDERS).detach()
    guided = model(video, ORDERS, cond_scale=3.0)
    assert guided.shape == (2, 2, 3, 5)
    torch.testing.assert_close(model(video, text_embeds=embeds, cond_scale=3.0), guided)
    cond, null = model(video, ORDERS), model(video, ORDERS, cond_drop_prob=1.0)
    torch.testing.assert_close(guided, null + 3 * (cond - null))


@pytest.mark.parametrize('conditioning', ['film', 'attention', 'none'])
def test_q_transformer(conditioning):
    client = pytest.importorskip('q_transformer')
    model = client.QRoboticTransformer(
        vit=VIT, action_bins=16, dueling=True, use_attn_conditioner=conditioning == 'attention',
        condition_on_text=conditioning != 'none', conditioner_kwargs={'model_types': [TinyEncoder()]}, **ROBOT,
    )  # fmt: skip
    video, texts = noise(2, 3, 2, 16, 16), {} if conditioning == 'none' else {'texts': ORDERS}
    actions = model.get_optimal_actions(video, **texts)
    model(video, actions=actions, **texts).sum().backward()
    if texts:
        embeds = model.embed_texts(ORDERS)
        actions = model.get_actions(video, text_embeds=embeds)
        assert model(video, actions=actions, text_embeds=embeds).shape == (2, 3, 16)


def test_the_replay_memory_of_q_transformer(tmp_path):
    """What `embed_texts` returns is written to an array in a file, read back, and given to the learner."""
    client, mocks = pytest.importorskip('q_transformer'), pytest.importorskip('q_transformer.mocks')
    model = client.QRoboticTransformer(vit=VIT, action_bins=16, conditioner_kwargs={'model_types': [TinyEncoder()]}, **ROBOT)
    agent = client.Agent(
        model, environment=mocks.MockEnvironment(state_shape=(3, 2, 16, 16), text_embed_shape=(8,)),
        memories_dataset_folder=str(tmp_path), num_episodes=2, max_num_steps_per_episode=3,
    )  # fmt: skip
    agent()
    embeds, states, *_ = client.ReplayMemoryDataset(str(tmp_path), num_timesteps=1)[0]
    assert torch.as_tensor(embeds).shape[-1] == 8
    actions = model.get_actions(torch.as_tensor(states)[None].flatten(0, 1), text_embeds=torch.as_tensor(embeds).reshape(1, 8))
    assert actions.shape == (1, 3)


@pytest.mark.parametrize('text_cond_with_film', [False, True])
def test_meshgpt(text_cond_with_film):
    client = pytest.importorskip('meshgpt_pytorch')
    sizes = {'encoder_dims_through_depth': (16, 16), 'decoder_dims_through_depth': (16, 16), 'dim_codebook': 16}
    autoencoder = client.MeshAutoencoder(num_discrete_coors=16, attn_encoder_depth=0, **sizes)
    transformer = client.MeshTransformer(
        autoencoder, dim=32, max_seq_len=18, num_sos_tokens=1, condition_on_text=True, fine_cross_attend_text=True,
        text_cond_with_film=text_cond_with_film, coarse_adaptive_rmsnorm=True, text_condition_model_types=(TinyEncoder(),),
    )  # fmt: skip
    mesh = {'vertices': noise(2, 12, 3), 'faces': torch.randint(0, 12, (2, 2, 3))}
    transformer(**mesh, texts=ORDERS).backward()
    embeds = transformer.embed_texts(ORDERS)
    assert (embeds == -1).all(dim=-1).any()
    transformer(**mesh, text_embeds=embeds).backward()
    assert transformer.embed_texts(ORDERS[0]).ndim == 2  # one text, without its batch
    cached, uncached = (
        transformer.generate(texts=ORDERS[:1], cond_scale=3.0, temperature=0, cache_kv=cache_kv)[0] for cache_kv in (True, False)
    )
    torch.testing.assert_close(cached, uncached)
