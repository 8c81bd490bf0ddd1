"""Writes tiny random models as GGUF, with the logits that `transformers` computes for them in float32.

For each family and RoPE scaling: NAME.gguf (F32 tensors, laid out as llama.cpp's converter does) and NAME.logits.npy
[tokens, vocab] for the tokens in tokens.npy. PyPI: torch, transformers, gguf, numpy.
"""
import math
import pathlib

import gguf
import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
VOCAB = 96
SHAPE = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=96, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-6,
             attention_dropout=0.0, pad_token_id=None, bos_token_id=1, eos_token_id=2)


def rope(kind, **more):
    return {"rope_type": kind, "rope_theta": 10000.0, **more}


def models():
    llama = dict(SHAPE, num_hidden_layers=2, tie_word_embeddings=False)
    yield "llama", transformers.LlamaConfig(**llama, rope_parameters=rope("default"))
    yield "llama_linear", transformers.LlamaConfig(**llama, rope_parameters=rope("linear", factor=4.0))
    yield "llama_llama3", transformers.LlamaConfig(**llama, rope_parameters=rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64))
    yield "llama_yarn", transformers.LlamaConfig(**llama, rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=64))
    yield "qwen2", transformers.Qwen2Config(**dict(llama, tie_word_embeddings=True),
                                            rope_parameters=rope("default"))
    yield "qwen3", transformers.Qwen3Config(**llama, head_dim=24, rope_parameters=rope("default"))
    yield "gemma3", transformers.Gemma3TextConfig(
        **dict(SHAPE, num_hidden_layers=7, tie_word_embeddings=True), head_dim=16,
        query_pre_attn_scalar=16, sliding_window=32, hidden_activation="gelu_pytorch_tanh",
        layer_types=["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(7)],
        rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})


def permute(weight, heads):
    """The converter's order of query and key rows for the llama family: halves become adjacent pairs."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_proj.bias": "attn_q.bias", "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def tensor_name(name, gemma):
    name = name.removeprefix("model.")
    whole = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, layer, part = name.split(".", 2)
    if gemma:
        part = {"post_attention_layernorm.weight": "post_attention_norm.weight",
                "pre_feedforward_layernorm.weight": "ffn_norm.weight",
                "post_feedforward_layernorm.weight": "post_ffw_norm.weight"}.get(part, part)
    else:
        part = {"post_attention_layernorm.weight": "ffn_norm.weight"}.get(part, part)
    return f"blk.{layer}.{NAMES.get(part, part)}"


def llama3_factors(config):
    p, head_dim = config.rope_parameters, config.hidden_size // config.num_attention_heads
    frequency = p["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    wavelength = 2 * math.pi / frequency
    low = p["original_max_position_embeddings"] / p["low_freq_factor"]
    high = p["original_max_position_embeddings"] / p["high_freq_factor"]
    smooth = (p["original_max_position_embeddings"] / wavelength - p["low_freq_factor"]) / (
        p["high_freq_factor"] - p["low_freq_factor"])
    between = 1 / ((1 - smooth) / p["factor"] + smooth)
    return np.where(wavelength < high, 1.0, np.where(wavelength > low, p["factor"], between)).astype(np.float32)


def write(name, config, state):
    family = name.split("_")[0]
    gemma = family == "gemma3"
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", family)
    writer.add_name(f"tiny {name}")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if family in ("qwen3", "gemma3"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    parameters = config.rope_parameters["full_attention"] if gemma else config.rope_parameters
    writer.add_rope_freq_base(parameters["rope_theta"])
    if gemma:
        writer.add_sliding_window(config.sliding_window)
    if family == "llama":
        writer.add_rope_dimension_count(head_dim)
        writer.add_vocab_size(config.vocab_size)
    if parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(parameters["factor"])
    if parameters["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])
    if parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    for key, value in state.items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = value.detach().numpy().astype(np.float32)
        if family == "llama" and key.endswith("q_proj.weight"):
            array = permute(array, config.num_attention_heads)
        if family == "llama" and key.endswith("k_proj.weight"):
            array = permute(array, config.num_key_value_heads)
        if gemma and key.endswith("norm.weight"):
            array = array + 1
        writer.add_tensor(tensor_name(key, gemma), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    rng = np.random.default_rng(7)
    tokens = rng.integers(3, VOCAB, size=150).astype(np.int32)
    np.save(HERE / "tokens.npy", tokens)
    for number, (name, config) in enumerate(models()):
        torch.manual_seed(number)
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "norm" in key:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                elif "bias" in key:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
                else:
                    parameter.copy_(torch.randn_like(parameter) * (0.6 if "embed" in key else 0.25))
            logits = model(torch.tensor(tokens[None].astype(np.int64))).logits[0].numpy()
        write(name, config, model.state_dict())
        np.save(HERE / f"{name}.logits.npy", logits.astype(np.float32))
        print(name, logits.shape, float(np.abs(logits).max()))


if __name__ == "__main__":
    main()
