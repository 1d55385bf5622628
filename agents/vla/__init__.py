"""Vision-language-action policies: pictures and an instruction in, chunks of actions out, denoised or as tokens."""
