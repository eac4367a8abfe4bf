"""What a data owner lets out: agreements, consent of firms, and the ledger of what was released."""
