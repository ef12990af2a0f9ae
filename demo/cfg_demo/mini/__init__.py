"""How the embedded encoder `mini` is made: its captioned pictures, its tokenizer, its two towers and how they are measured."""
