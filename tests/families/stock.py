"""Random models of every family, as stock transformers makes them."""

import numpy as np
import torch
import transformers

FAMILIES = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    "openai-gpt": (transformers.OpenAIGPTConfig, transformers.OpenAIGPTLMHeadModel),
    "gpt_neo": (transformers.GPTNeoConfig, transformers.GPTNeoForCausalLM),
    "gptj": (transformers.GPTJConfig, transformers.GPTJForCausalLM),
    "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM),
    "opt": (transformers.OPTConfig, transformers.OPTForCausalLM),
    "bloom": (transformers.BloomConfig, transformers.BloomForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}
POSITIONS = 24


def _pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def _sizes(rng):
    heads = int(_pick(rng, 1, 2, 3, 4, 6))
    width = 2 * int(rng.integers(2, 5))
    return heads, width, int(rng.integers(1, 4))


def _rope(rng):
    theta = float(_pick(rng, 10000.0, 100.0, 500000.0))
    return _pick(
        rng,
        {"rope_type": "default", "rope_theta": theta},
        {"rope_type": "linear", "rope_theta": theta, "factor": 2.5},
        {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    )


def _qwen_windows(rng, layers):
    kinds = ("full_attention", "sliding_attention")
    return _pick(
        rng,
        {},
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        {
            "use_sliding_window": True,
            "sliding_window": int(rng.integers(2, 9)),
            "layer_types": [kinds[rng.integers(2)] for _ in range(layers)],
        },
    )


def fields(family, seed):
    """Those of a config that change the computation, drawn."""
    rng = np.random.default_rng([seed, len(family)])
    heads, width, layers = _sizes(rng)
    activation = str(_pick(rng, "gelu_new", "gelu", "relu", "silu", "gelu_fast"))

    def flag():
        return bool(rng.integers(2))

    epsilon = float(_pick(rng, 1e-5, 1e-3, 1e-6))
    inner = int(rng.integers(5, 40))
    shared = {
        "vocab_size": int(rng.integers(20, 40)),
        "initializer_range": 0.2,
        "tie_word_embeddings": flag(),
    }
    like_gpt2 = {
        "n_positions": POSITIONS,
        "n_embd": heads * width,
        "n_layer": layers,
        "n_head": heads,
        "layer_norm_epsilon": epsilon,
    }
    named = {
        "max_position_embeddings": POSITIONS,
        "hidden_size": heads * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    groups = int(rng.choice([n for n in range(1, heads + 1) if heads % n == 0]))
    if family == "gpt2":
        own = {
            **like_gpt2,
            "n_inner": _pick(rng, None, inner),
            "activation_function": activation,
            "scale_attn_weights": flag(),
            "scale_attn_by_inverse_layer_idx": flag(),
            "reorder_and_upcast_attn": flag(),
        }
    elif family == "openai-gpt":
        own = {**like_gpt2, "afn": str(_pick(rng, "gelu", "relu", "silu", "swish"))}
    elif family == "gpt_neo":
        kinds = [_pick(rng, "global", "local") for _ in range(layers)]
        own = {
            "max_position_embeddings": POSITIONS,
            "hidden_size": heads * width,
            "num_layers": layers,
            "num_heads": heads,
            "intermediate_size": _pick(rng, None, inner),
            "activation_function": activation,
            "layer_norm_epsilon": epsilon,
            "window_size": int(rng.integers(1, 9)),
            "attention_types": [[[kind], 1] for kind in kinds],
        }
    elif family == "gptj":
        own = {
            **like_gpt2,
            "n_inner": _pick(rng, None, inner),
            "activation_function": activation,
            "rotary_dim": 2 * int(rng.integers(1, width // 2 + 1)),
        }
    elif family == "gpt_neox":
        own = {
            **named,
            "intermediate_size": inner,
            "hidden_act": activation,
            "layer_norm_eps": epsilon,
            "use_parallel_residual": flag(),
            "attention_bias": flag(),
            "rope_parameters": {
                **_rope(rng),
                "partial_rotary_factor": _pick(rng, 1.0, 2 / width, 4 / width),
            },
        }
    elif family == "opt":
        shared["init_std"] = shared.pop("initializer_range")
        own = {
            **named,
            "ffn_dim": inner,
            "activation_function": activation,
            "do_layer_norm_before": flag(),
            "enable_bias": flag(),
        }
    elif family == "bloom":
        own = {
            "hidden_size": heads * width,
            "n_layer": layers,
            "n_head": heads,
            "seq_length": POSITIONS,
            "layer_norm_epsilon": epsilon,
            "apply_residual_connection_post_layernorm": flag(),
        }
    else:
        own = {
            **named,
            "num_key_value_heads": groups,
            "intermediate_size": inner,
            "hidden_act": activation,
            "rms_norm_eps": epsilon,
            "rope_parameters": _rope(rng),
        }
        if family != "qwen2":
            own["attention_bias"] = flag()
            own["head_dim"] = _pick(rng, width, 2 * width)
        if family == "llama":
            own["mlp_bias"] = flag()
        else:
            own |= _qwen_windows(rng, layers)
    return {**shared, **own}


def make(family, seed, **changes):
    """A language model of random weights, norms and biases too, in evaluation."""
    config_class, model_class = FAMILIES[family]
    torch.manual_seed(seed)
    config = config_class(
        **{**fields(family, seed), **changes},
        bos_token_id=0,
        eos_token_id=0,
        # Such a one has no gradient in torch.
        pad_token_id=None,
        attn_implementation="eager",
    )
    made = model_class(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def regular(family, *, layers=3, **more):
    """Fields of a config whose sizes are even, with all that the family may have."""
    kinds = ("sliding_attention", "full_attention")
    gated = {"num_key_value_heads": 2, "head_dim": 16}
    windows = {
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": [kinds[layer % 2] for layer in range(layers)],
    }
    own = {
        "gpt_neo": {
            "num_layers": layers,
            "num_heads": 4,
            "attention_types": [[["global"], 1], [["local"], layers - 1]],
            "window_size": 5,
        },
        "gptj": {"rotary_dim": 4},
        "gpt_neox": {"rope_parameters": {"partial_rotary_factor": 0.5}},
        "llama": gated,
        "qwen2": {"num_key_value_heads": 2, **windows},
        "qwen3": {**gated, **windows},
    }
    names = ("n_layer", "n_head"), ("num_hidden_layers", "num_attention_heads")
    if family != "gpt_neo":
        layer, head = names[family not in ("gpt2", "openai-gpt", "gptj", "bloom")]
        own.setdefault(family, {}).update({layer: layers, head: 4})
    width = "n_embd" if family in ("gpt2", "openai-gpt", "gptj") else "hidden_size"
    inner = {
        "gpt2": "n_inner",
        "gptj": "n_inner",
        "opt": "ffn_dim",
    }.get(family, "intermediate_size")
    if family not in ("openai-gpt", "bloom"):
        own[family][inner] = 48
    return {width: 32, **own[family], **more}
