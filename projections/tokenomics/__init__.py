"""Read models of tokenomics."""

from .money import Accounts, TransferLegs, Transfers, Wallets
from .rewards import DevicePayouts, Epochs, RewardClaims

READ_MODELS = (Wallets(), Accounts(), Transfers(), TransferLegs(), Epochs(), RewardClaims(), DevicePayouts())

__all__ = [
    "READ_MODELS",
    "Accounts",
    "DevicePayouts",
    "Epochs",
    "RewardClaims",
    "TransferLegs",
    "Transfers",
    "Wallets",
]
