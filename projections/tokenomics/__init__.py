"""Read models of tokenomics."""

from .money import Accounts, TransferLegs, Transfers, Wallets
from .rewards import DevicePayouts, Epochs, RewardClaims

READ_MODELS = (Wallets(), Accounts(), Transfers(), TransferLegs(), Epochs(), RewardClaims(), DevicePayouts())
