"""The decoder of the example against transformers' own guidance of logits, and its caches against none."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.mini import MiniAdapter

EXAMPLE = '05_language_model'
TEXTS = ['a red circle above a blue square', 'two green stars']


@pytest.fixture(scope='module')
def tokenizer():
    return MiniAdapter().tokenizer


@pytest.fixture(scope='module')
def model(example, tokenizer):
    torch.manual_seed(0)
    model = example.build(len(tokenizer), dim=32, depth=2).eval()
    with torch.no_grad():  # sharper than at initialisation, and every layer listens to its text
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


class WithoutText:
    """The decoder's null branch, called as transformers' processor calls a model."""

    def __init__(self, model):
        self.model = model

    def __call__(self, input_ids, attention_mask, use_cache, past_key_values):
        cache = DynamicCache() if past_key_values is None else past_key_values
        return CausalLMOutputWithPast(logits=self.model(input_ids, cache=cache), past_key_values=cache)


@torch.no_grad()
@pytest.mark.parametrize('scale', [0.5, 1.0, 1.5, 4.0])
def test_logits_and_greedy_tokens_are_those_of_transformers(example, model, tokenizer, scale):
    theirs = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, WithoutText(model))
    caches, cache = {'cache': (DynamicCache(), DynamicCache())}, DynamicCache()
    tokens = torch.full((2, 1), tokenizer.bos_token_id)
    for _ in range(12):
        asked = {'texts': TEXTS, 'cond_scale': scale, 'guidance': guidance.Logits()}
        ours = model(tokens[:, -1:], **asked, cfg_routed_kwargs=caches)[:, -1]
        expected = theirs(tokens, model(tokens[:, -1:], texts=TEXTS, cache=cache)[:, -1])
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        tokens = torch.cat((tokens, expected.argmax(dim=1, keepdim=True)), dim=1)
    written = example.write(model, tokenizer, TEXTS, scale, None, longest=13)
    assert torch.equal(written, tokens[:, : written.shape[1]])
    assert written.shape[1] == 13 or (written == tokenizer.eos_token_id).any(dim=1).all()


@torch.no_grad()
def test_a_cache_for_each_branch_changes_nothing_and_a_used_one_for_both_is_refused(model):
    tokens = torch.randint(4, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    asked = {'texts': TEXTS, 'cond_scale': 3.0, 'guidance': guidance.Logits()}
    at_once = model(tokens, **asked)
    caches = (DynamicCache(), DynamicCache())
    one_by_one = [model(token, **asked, cfg_routed_kwargs={'cache': caches}) for token in tokens.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(one_by_one, dim=1), at_once, rtol=1e-4, atol=1e-4)
    assert [cache.get_seq_length() for cache in caches] == [9, 9]
    with pytest.raises(ConfigError, match="'cache' was changed by the pass of one branch"):
        model(tokens[:, :1], **asked, cache=caches[0])
    torch.testing.assert_close(model(tokens, **asked, cache=DynamicCache()), at_once, rtol=1e-4, atol=1e-4)  # each gets its own
    assert not torch.allclose(at_once, model(tokens, texts=TEXTS[::-1], cond_scale=3.0, guidance=guidance.Logits()), atol=0.1)


def test_it_runs_and_prints(example, capsys):
    shares = example.main(steps=3, captions=6)
    assert list(shares) == [0.0, 1.0, 1.5, 2.0, 3.0]
    assert all(0 <= share <= 1 for share in shares.values())
    assert 'cond_scale 1.5:' in capsys.readouterr().out
