"""The app's options, which its commands share, in both spellings."""
