"""What all engines share: the contract, sessions in torch, a server of llama.cpp."""
