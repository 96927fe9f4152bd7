"""What discovery must find inside the blocks of each architecture, written down by hand.

`norm: linears` is an input group and the norm that may absorb its scales (`-` where there is none), in
execution order; `source > target` is a link. Where blocks differ, there is one text per block.
"""

ATTENTION = """
    input_layernorm: self_attn.q_proj self_attn.k_proj self_attn.v_proj
    -: self_attn.o_proj
    self_attn.v_proj > self_attn.o_proj
"""
LLAMA = (
    ATTENTION
    + """
    post_attention_layernorm: mlp.gate_proj mlp.up_proj
    -: mlp.down_proj
    mlp.up_proj > mlp.down_proj
"""
)
GEMMA2 = LLAMA.replace("post_attention_layernorm", "pre_feedforward_layernorm")
NO_NORM = LLAMA.replace("input_layernorm", "-").replace("post_attention_layernorm", "-")
PARALLEL = """
    input_layernorm: self_attn.q_proj self_attn.k_proj self_attn.v_proj mlp.gate_proj mlp.up_proj
    -: self_attn.o_proj
    -: mlp.down_proj
    self_attn.v_proj > self_attn.o_proj
    mlp.up_proj > mlp.down_proj
"""
NEOX = """
    input_layernorm: attention.query_key_value
    -: attention.dense
    post_attention_layernorm: mlp.dense_h_to_4h
    -: mlp.dense_4h_to_h
    attention.query_key_value > attention.dense
"""
BLOOM = NEOX.replace("attention.", "self_attention.")
GPTJ = """
    ln_1: attn.q_proj attn.k_proj attn.v_proj mlp.fc_in
    -: attn.out_proj
    -: mlp.fc_out
    attn.v_proj > attn.out_proj
"""
LFM2_FEED_FORWARD = """
    ffn_norm: feed_forward.w1 feed_forward.w3
    -: feed_forward.w2
    feed_forward.w3 > feed_forward.w2
"""
LFM2_CONVOLUTION = (
    """
    operator_norm: conv.in_proj
    -: conv.out_proj
    conv.in_proj > conv.out_proj
"""
    + LFM2_FEED_FORWARD
)
LFM2_ATTENTION = ATTENTION.replace("input_layernorm", "operator_norm").replace("o_proj", "out_proj") + LFM2_FEED_FORWARD

EXPECTED: dict[str, str | list[str]] = {
    "llama": LLAMA,
    "llama-yarn": LLAMA,
    "llama-bias": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "phi": """
        input_layernorm: self_attn.q_proj self_attn.k_proj self_attn.v_proj mlp.fc1
        -: self_attn.dense
        -: mlp.fc2
        self_attn.v_proj > self_attn.dense
    """,
    "phi3": """
        input_layernorm: self_attn.qkv_proj
        -: self_attn.o_proj
        post_attention_layernorm: mlp.gate_up_proj
        -: mlp.down_proj
        self_attn.qkv_proj > self_attn.o_proj
        mlp.gate_up_proj > mlp.down_proj
    """,
    "smollm3": LLAMA,
    "stablelm": LLAMA,
    "stablelm-parallel": PARALLEL,
    # OLMo's norms have no weight, OLMo 2 and EXAONE 4 have theirs behind the linears.
    "olmo": NO_NORM,
    # A clipped value does not follow its factor.
    "olmo-clip": NO_NORM.replace("self_attn.v_proj > self_attn.o_proj", ""),
    "olmo2": NO_NORM,
    "exaone4": NO_NORM,
    "granite": LLAMA,
    "cohere": PARALLEL,
    "cohere-norm": PARALLEL,
    "starcoder2": ATTENTION
    + """
        post_attention_layernorm: mlp.c_fc
        -: mlp.c_proj
    """,
    "gpt2": """
        ln_1: attn.c_attn
        -: attn.c_proj
        ln_2: mlp.c_fc
        -: mlp.c_proj
        attn.c_attn > attn.c_proj
    """,
    "gpt_neo": """
        ln_1: attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj
        -: attn.attention.out_proj
        ln_2: mlp.c_fc
        -: mlp.c_proj
        attn.attention.v_proj > attn.attention.out_proj
    """,
    "gpt_neox": NEOX,
    "gpt_neox-sequential": NEOX,
    # A positive factor passes through ReLU.
    "opt": """
        self_attn_layer_norm: self_attn.q_proj self_attn.k_proj self_attn.v_proj
        -: self_attn.out_proj
        final_layer_norm: fc1
        -: fc2
        self_attn.v_proj > self_attn.out_proj
        fc1 > fc2
    """,
    "bloom": BLOOM,
    "falcon": """
        input_layernorm: self_attention.query_key_value mlp.dense_h_to_4h
        -: self_attention.dense
        -: mlp.dense_4h_to_h
        self_attention.query_key_value > self_attention.dense
    """,
    "falcon-alibi": BLOOM,
    "falcon-new": BLOOM.replace("input_layernorm", "ln_attn").replace("post_attention_layernorm", "ln_mlp"),
    "mpt": """
        norm_1: attn.Wqkv
        -: attn.out_proj
        norm_2: ffn.up_proj
        -: ffn.down_proj
        attn.Wqkv > attn.out_proj
    """,
    "gptj": GPTJ,
    "codegen": GPTJ.replace("attn.q_proj attn.k_proj attn.v_proj", "attn.qkv_proj").replace("v_proj >", "qkv_proj >"),
    "lfm2": [LFM2_CONVOLUTION, LFM2_ATTENTION, LFM2_CONVOLUTION],
    # The square of a ReLU follows the square of a factor, which is not the factor.
    "nemotron": ATTENTION
    + """
        post_attention_layernorm: mlp.up_proj
        -: mlp.down_proj
    """,
    # The norm before a mixture also feeds its router, and its experts are no modules.
    "olmoe": ATTENTION,
    "qwen2_moe": ATTENTION
    + """
        -: mlp.shared_expert.gate_proj mlp.shared_expert.up_proj mlp.shared_expert_gate
        -: mlp.shared_expert.down_proj
        mlp.shared_expert.up_proj > mlp.shared_expert.down_proj
    """,
    "mamba": """
        norm: mixer.in_proj
        -: mixer.x_proj
        -: mixer.out_proj
    """,
    "mamba2": """
        norm: mixer.in_proj
        mixer.norm: mixer.out_proj
    """,
}
