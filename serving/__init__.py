"""The serving layer: thin, so that the gateway starts fast. Never imports Beam, Great Expectations or pandas."""
