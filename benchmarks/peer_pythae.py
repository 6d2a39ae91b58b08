"""pythae's side of `train_speed.py`: prints "ready", then trains an epoch for every line it reads.

Exits at once, without "ready", where torch or pythae is not installed.
"""

import sys

try:
    import torch
    from pythae.data.datasets import DatasetOutput
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
except ImportError:
    sys.exit(1)
from torch import nn

BATCH, IMAGES = 100, 20_000


class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.Tanh())
        self.loc, self.log_var = nn.Linear(500, 20), nn.Linear(500, 20)

    def forward(self, x):
        h = self.hidden(x)
        return ModelOutput(embedding=self.loc(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 500), nn.Tanh(), nn.Linear(500, 784), nn.Sigmoid())

    def forward(self, z):
        return ModelOutput(reconstruction=self.net(z).reshape(-1, 1, 28, 28))


def main():
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=20, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    images = (torch.rand(IMAGES, 1, 28, 28) > 0.5).float()
    print("ready", flush=True)
    for _ in sys.stdin:
        for i in range(0, IMAGES, BATCH):
            loss = model(DatasetOutput(data=images[i : i + BATCH])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(loss.item(), flush=True)


if __name__ == "__main__":
    main()
