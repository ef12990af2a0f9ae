"""Text to emoji: real words and real pictures, in three styles whose licences allow it."""

STYLE_NAMES = ('noto', 'twemoji', 'fluent')
