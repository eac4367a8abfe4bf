"""The portal of a firm's owner: consent, offer, application, contract, renewal, on a phone."""
