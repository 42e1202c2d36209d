"""A model for programs that ask for full-sized clips."""

from kinora.config import ImageEncoderConfig, ModelConfig, UNetConfig, VAEConfig

SWIFT = ModelConfig(
    name="swift",
    unet=UNetConfig(
        channels=(8,),
        blocks=1,
        attention=(False,),
        heads=(1,),
        context_dim=8,
        vector_dim=8,
        norm_groups=4,
    ),
    vae=VAEConfig(channels=(1, 1, 1, 1, 1, 1, 1), blocks=1, norm_groups=1, temporal_decoder=False),
    image_encoder=ImageEncoderConfig(
        patch_size=112, width=8, layers=1, heads=1, mlp_width=8, output_dim=8
    ),
    frames=25,
    width=1024,
    height=576,
)
"""So narrow that 25 frames of 1024×576 take seconds."""
