"""Libraries that wrap, save or copy models; a test of one that is not installed is skipped."""

from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

repair_torchvision()  # PEFT, diffusers and Lightning import a torchvision that may have been built for another torch
