"""Read models of tokenomics."""

from .flows import Flows
from .holds import Holds
from .money import Accounts, TransferLegs, Transfers, Wallets
from .rewards import DevicePayouts, Epochs, RewardClaims

READ_MODELS = (
    Wallets(),
    Accounts(),
    Transfers(),
    TransferLegs(),
    Holds(),
    Epochs(),
    RewardClaims(),
    DevicePayouts(),
    Flows(),
)

__all__ = [
    "READ_MODELS",
    "Accounts",
    "DevicePayouts",
    "Epochs",
    "Flows",
    "Holds",
    "RewardClaims",
    "TransferLegs",
    "Transfers",
    "Wallets",
]
