"""Fingerprints of the code that this package can take apart, see `fingerprints`.

Each is a class whose forward was read and is what the steps of a program do.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {
    # diffusers 0.42
    "d4c19856858d38437a79": "Encoder",
    "091a8eba0cd82488aacf": "Decoder",
    "5154659b7f5123a9d866": "UNetMidBlock2D",
    "5f14731b701d22d48969": "DownEncoderBlock2D",
    "c2dc1d34fd4f76053b80": "UpDecoderBlock2D",
    "a987433ad23b4c82bd88": "ResnetBlock2D",
    "a8a7e2fafc14f86faa5a": "Upsample2D",
    "3f8b73bb8c6658ffc54d": "Downsample2D",
    "56923c82a74d87930c9e": "Attention",
    "617512d66b87b1ecd559": "AttnProcessor",
    "d6afd66db9fbdd039d3f": "AttnProcessor2_0",
    "94837202ad51a5825276": "AvgDown3D",
    "9ce151b1166179478c66": "DupUp3D",
    "04d4cc1d5eef07df786c": "CausalConv3d",
    "13d23c0e7d565d8ec73d": "RMS_norm",
    "9324770ad80c15cca26b": "Upsample",
    "d2ba2e5c1e04d9bc7d91": "Resample",
    "6b11c2b5830c2809072d": "ResidualBlock",
    "220c002c809b1ace1ba5": "AttentionBlock",
    "23fc1bae73fbb1315e75": "MidBlock",
    "f2798108d5a5002f97d0": "ResidualDownBlock",
    "e49c76e8d9c2ab8cac87": "Encoder3d",
    "083afe537c7430270d57": "ResidualUpBlock",
    "426ef8cfa2fa91d7b002": "UpBlock",
    "79b6e1480503651ba066": "Decoder3d",
    "a5db7953bea157e8ae56": "Resample",
    "65fa537881419e6174c8": "ResidualBlock",
    "680be2f1110718f92e2e": "MidBlock",
    "746b1a42078871be57b4": "Encoder3d",
    "5b27564abe5a56c07e79": "UpBlock",
    "eeab46ddbeb13e54c442": "Decoder3d",
    # this project's layouts
    "fa4b50e2424bcc5a50ad": "ResnetBlock",
    "5c586aa0111c7314fed3": "AttnBlock",
    "463d7a72d98fb87e98cc": "Upsample",
    "a2d95a70f61103f4b1ac": "Downsample",
    "3e3f8e5548814b82212d": "Encoder",
    "e69931f9713133adaf7c": "Decoder",
    "becc6934d41bfdab11ef": "CausalConv3d",
    "1c5d11ba8c53c4736708": "RMS_norm",
    "82690750061836edbf48": "Upsample",
    "616bd2a2a97442a2cb11": "Resample",
    "bcb29fec0f7fca1fcf96": "ResidualBlock",
    "d8993a76872e67860352": "AttentionBlock",
    "7c72038482cff26c9ac9": "AvgDown3D",
    "4310d5bd38329a265d93": "DupUp3D",
    "a190a2e075d9f8ffa4c1": "Down_ResidualBlock",
    "4245e11e4d15751a70bc": "Up_ResidualBlock",
    "15a42184b5e8a816159a": "Encoder3d",
    "186db3d9a1bafcd59cef": "Decoder3d",
    "4c4d722f19d8f4acc939": "Decoder3d",
    "eb5c732db0b120a083c8": "CausalConv3d",
    "7e216d3b0a67dc3c70b1": "ResidualBlock",
    "92c4e76b2bafcbf13a6c": "AttentionBlock",
    "b2a2b7527f89ed86143a": "Resample",
    "100892ee8df832a7016f": "Encoder3d",
    "37e706a95e7a5bcc2df2": "Decoder3d",
    # CompVis/stable-diffusion 21f890f
    "d649b94f42e8c81f2c29": "ResnetBlock",
    "a9487740fddb6f451685": "AttnBlock",
    "50e968b34dc93ab8307a": "Upsample",
    "5c89463a5e7ea9879d88": "Downsample",
    "295b23de34beaabe9477": "Encoder",
    "9d4535ec0638b5edd9f5": "Decoder",
    # Wan-Video/Wan2.1 9737cba
    "2589c33f8908ab215621": "RMS_norm",
    "a76d9d3674c2123a3e28": "Resample",
    "0e48b7c5f7a5eec294d8": "ResidualBlock",
    "f0f740d0a84245e2c4e3": "AttentionBlock",
    "a8c08fe625411a366af4": "Encoder3d",
    "cd9c5aaf1ecf7623f490": "Decoder3d",
}
"""From what a class does to the published class that does it."""

ATTENTIONS = frozenset(
    {
        "7910fe79f685e5b4ccdd",
    }
)
"""Functions of the original layouts that compute plain attention."""
