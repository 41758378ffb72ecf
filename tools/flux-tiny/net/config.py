"""Sizes of the model that is trained (a recipe may have others), and the prompts of its sample sheets."""
from data import scene as S

CONFIG = dict(patch_size=1, in_channels=64, out_channels=None, num_layers=2, num_single_layers=4,
              attention_head_dim=64, num_attention_heads=2, joint_attention_dim=128, pooled_projection_dim=64,
              guidance_embeds=True, axes_dims_rope=[4, 30, 30])
TEXT_CONFIG = dict(vocab_size=len(S.vocabulary()), max_length=S.MAX_TOKENS, dim=128, pooled_dim=64, layers=2, heads=4,
                   pad_id=0)
PROMPTS = ["a red circle left of a striped blue square on a grey background",
           "a large yellow star in the night sky",
           "a green triangle above an orange ring on a white to pink gradient background",
           "three pink hearts on a black background",
           "a small white heart inside a large red circle over green hills",
           "a dotted purple diamond over the sea",
           "a red cross , a yellow star and a blue circle in a row on a white background",
           "a checkered black square on a cyan background",
           "a large orange circle at the top over the sea",
           "four small yellow stars in the night sky",
           "a striped red heart right of a green square on a checkered grey background",
           "a white ring at the bottom right on a blue to purple gradient background"]
