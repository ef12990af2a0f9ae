"""The oracles import torchvision; where it does not match torch, it is repaired as the library repairs it for its users."""

from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

repair_torchvision()
