"""Writes tiny random models of the families with LayerNorm, and of a llama with other norms, as GGUF, with the logits
that `transformers` computes for them in float32: NAME.gguf and NAME.logits.npy, for the tokens that make_golden.py wrote.

The tensors are laid out as llama.cpp's converter lays them out. PyPI: torch, transformers, gguf, numpy.
"""
import pathlib

import gguf
import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
VOCAB, DIM, FFN, HEADS, LAYERS, CONTEXT, EPSILON = 96, 32, 80, 4, 2, 512, 1e-5
SPECIAL = dict(vocab_size=VOCAB, pad_token_id=None, bos_token_id=1, eos_token_id=2)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LAYER_NORMS = ("weight", "bias")


def modern(**more):
    return dict(SPECIAL, hidden_size=DIM, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                max_position_embeddings=CONTEXT, **more)


class Channels(torch.nn.Module):
    """BatchNorm in inference over the channels of [batch, tokens, channels]."""

    def __init__(self, n):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(n, eps=EPSILON, momentum=1.0)  # statistics are those of the last pass

    def forward(self, x):
        return self.norm(x.flatten(0, 1)).reshape(x.shape)


def replace_norms(model, make):
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = make(), make()
    model.model.norm = make()


def plain(prefix, names):
    """A table of modules: what `transformers` calls them, and the GGUF names."""
    return {prefix + key: value for key, value in names.items()}


# Modules of a layer, or of the whole; those of a fused matrix say how its rows lie.
GPT2 = dict(layers="transformer.h.{}.", whole={"transformer.wte": "token_embd", "transformer.wpe": "position_embd",
                                               "transformer.ln_f": "output_norm"},
            names={"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
                   "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}, transposed=True)
NEOX = dict(layers="gpt_neox.layers.{}.", whole={"gpt_neox.embed_in": "token_embd", "lm_head": "output",
                                                 "gpt_neox.final_layer_norm": "output_norm"},
            names={"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
                   "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
                   "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}, groups=HEADS)
FALCON = dict(layers="transformer.h.{}.", whole={"transformer.word_embeddings": "token_embd", "lm_head": "output",
                                                 "transformer.ln_f": "output_norm"},
              names={"input_layernorm": "attn_norm", "ln_mlp": "attn_norm", "ln_attn": "attn_norm_2",
                     "self_attention.query_key_value": "attn_qkv", "self_attention.dense": "attn_output",
                     "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"})
BLOOM = dict(layers="transformer.h.{}.", whole={"transformer.word_embeddings": "token_embd",
                                                "transformer.word_embeddings_layernorm": "token_embd_norm",
                                                "transformer.ln_f": "output_norm"},
             names=dict(FALCON["names"], post_attention_layernorm="ffn_norm"))
MPT = dict(layers="transformer.blocks.{}.", whole={"transformer.wte": "token_embd", "transformer.norm_f": "output_norm"},
           names={"norm_1": "attn_norm", "norm_2": "ffn_norm", "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output",
                  "ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down"})
LLAMA = dict(layers="model.layers.{}.", whole={"model.embed_tokens": "token_embd", "model.norm": "output_norm",
                                               "model.final_layernorm": "output_norm", "lm_head": "output"},
             names={"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
                    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
                    "self_attn.o_proj": "attn_output", "self_attn.dense": "attn_output", "mlp.gate_proj": "ffn_gate",
                    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.c_fc": "ffn_up",
                    "mlp.c_proj": "ffn_down", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"})


def models():
    t = transformers
    yield "gpt2", t.GPT2Config(**SPECIAL, n_positions=CONTEXT, n_embd=DIM, n_layer=LAYERS, n_head=HEADS, n_inner=FFN,
                               attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0), GPT2, {}
    for name, parallel in (("gptneox", True), ("gptneox_sequential", False)):
        yield name, t.GPTNeoXConfig(**modern(), layer_norm_eps=EPSILON, use_parallel_residual=parallel,
                                    attention_dropout=0.0, hidden_dropout=0.0,
                                    rope_parameters=dict(ROPE, partial_rotary_factor=0.25)), NEOX, {
            "use_parallel_residual": parallel, "rope.dimension_count": DIM // HEADS // 4}
    falcon = dict(SPECIAL, hidden_size=DIM, ffn_hidden_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                  max_position_embeddings=CONTEXT, layer_norm_epsilon=EPSILON, bias=False, alibi=False,
                  hidden_dropout=0.0, attention_dropout=0.0, rope_parameters=ROPE)
    yield "falcon", t.FalconConfig(**falcon, multi_query=True, parallel_attn=True,
                                   new_decoder_architecture=False), FALCON, {"attention.head_count_kv": 1}
    yield "falcon_grouped", t.FalconConfig(**falcon, new_decoder_architecture=True, num_kv_heads=2), dict(
        FALCON, groups=2), {"attention.head_count_kv": 2, "tensor_data_layout": "jploski"}
    yield "starcoder2", t.Starcoder2Config(
        **modern(num_key_value_heads=2), norm_epsilon=EPSILON, use_bias=True, sliding_window=None,
        hidden_act="gelu_pytorch_tanh", rope_parameters=ROPE), LLAMA, {"attention.head_count_kv": 2}
    for name, parallel in (("stablelm", False), ("stablelm_parallel", True)):
        yield name, t.StableLmConfig(
            **modern(num_key_value_heads=2), layer_norm_eps=EPSILON, use_qkv_bias=not parallel, qk_layernorm=False,
            use_parallel_residual=parallel, hidden_act="silu",
            rope_parameters=dict(ROPE, partial_rotary_factor=0.5)), LLAMA, {
            "attention.head_count_kv": 2, "rope.dimension_count": DIM // HEADS // 2, "use_parallel_residual": parallel}
    yield "phi2", t.PhiConfig(**modern(), layer_norm_eps=EPSILON, hidden_act="gelu_new", qk_layernorm=False,
                              rope_parameters=dict(ROPE, partial_rotary_factor=0.5)), LLAMA, {
        "rope.dimension_count": DIM // HEADS // 2}
    # Heads that are no power of two have slopes of ALiBi between those of the others.
    yield "bloom", t.BloomConfig(**SPECIAL, hidden_size=48, n_layer=LAYERS, n_head=6, layer_norm_epsilon=EPSILON,
                                 hidden_dropout=0.0, attention_dropout=0.0), dict(BLOOM, groups=6), {}
    yield "mpt", t.MptConfig(vocab_size=VOCAB, d_model=DIM, n_heads=HEADS, n_layers=LAYERS, expansion_ratio=2,
                             max_seq_len=CONTEXT, resid_pdrop=0.0, emb_pdrop=0.0, layer_norm_epsilon=EPSILON), MPT, {
        "attention.max_alibi_bias": 8.0}
    for kind in ("layer", "batch"):
        config = t.LlamaConfig(**modern(num_key_value_heads=2), tie_word_embeddings=False, rope_parameters=ROPE,
                               attention_dropout=0.0)
        yield f"llama_{kind}", config, LLAMA, {
            "norm_type": kind, "attention.head_count_kv": 2, "rope.dimension_count": DIM // HEADS}


def regroup(array, groups, heads):
    """Rows that lie group by group (queries, key, value of each) as all queries, all keys, all values."""
    size = array.shape[0] // (heads + 2 * groups)
    rows = array.reshape(groups, heads // groups + 2, size, *array.shape[1:])
    parts = rows[:, :-2], rows[:, -2], rows[:, -1]
    return np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])


def adjacent(array, heads):
    """The converter's order of query and key rows for the llama family: halves become adjacent pairs."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)


def tensors(model, table, config, family):
    heads = getattr(config, "num_attention_heads", HEADS)
    modules = {f"{key}.": value for key, value in table["whole"].items()}
    for layer in range(LAYERS):
        prefix = table["layers"].format(layer)
        modules.update({f"{prefix}{key}.": f"blk.{layer}.{value}" for key, value in table["names"].items()})
    head = model.state_dict().get("lm_head.weight")
    embedding = model.get_input_embeddings().weight
    for key, value in model.state_dict().items():
        key = key.replace("norm.norm.", "norm.")  # Channels
        if key.endswith("num_batches_tracked") or "rotary" in key or key.endswith((".attn.bias", ".masked_bias")):
            continue
        if key == "lm_head.weight" and head.data_ptr() == embedding.data_ptr():
            continue
        module, part = key.rsplit(".", 1)
        name = f"{modules[module + '.']}.{part}"
        array = value.detach().numpy().astype(np.float32)
        if table.get("transposed") and part == "weight" and array.ndim == 2 and name.startswith("blk."):
            array = array.T
        if "attn_qkv" in name and table.get("groups"):
            array = regroup(array, table["groups"], heads)
        if family == "llama" and "attn_q" in name:
            array = adjacent(array, heads)
        if family == "llama" and "attn_k" in name:
            array = adjacent(array, config.num_key_value_heads)
        yield name, np.ascontiguousarray(array)


def write(name, model, config, table, keys):
    family = name.split("_")[0]
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", family)
    writer.add_name(f"tiny {name}")
    found = dict(tensors(model, table, config, family))
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(found["token_embd.weight"].shape[1])
    writer.add_feed_forward_length(found["blk.0.ffn_up.weight"].shape[0])
    writer.add_head_count(getattr(config, "num_attention_heads", HEADS))
    if family == "llama":
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_layer_norm_eps(EPSILON)
    for key, value in keys.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{family}.{key}", value)
    for tensor, array in found.items():
        writer.add_tensor(tensor, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    tokens = np.load(HERE / "tokens.npy")
    for number, (name, config, table, keys) in enumerate(models()):
        torch.manual_seed(100 + number)
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).float()
        if name == "llama_layer":
            replace_norms(model, lambda: torch.nn.LayerNorm(DIM, eps=EPSILON))
        if name == "llama_batch":
            replace_norms(model, lambda: Channels(DIM))
        model.eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "norm" in key or ".ln_" in key:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                elif "bias" in key:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
                else:
                    wide = any(part in key for part in ("embed", "wte", "wpe"))
                    parameter.copy_(torch.randn_like(parameter) * (0.6 if wide else 0.25))
            if name == "llama_batch":
                learned = np.random.default_rng(8).integers(3, VOCAB, size=(4, 100))
                model.train()(torch.tensor(learned))
                model.eval()
            logits = model(torch.tensor(tokens[None].astype(np.int64))).logits[0].numpy()
        write(name, model, config, table, keys)
        np.save(HERE / f"{name}.logits.npy", logits.astype(np.float32))
        print(name, logits.shape, float(np.abs(logits).max()))


if __name__ == "__main__":
    main()
