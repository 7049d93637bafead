"""A small convolutional network on handwritten digits, trained in PyTorch with popgrad's AdamW and a schedule."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from popgrad.torch import AdamW

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only wait for each other with tensors this small
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
X, X_test, y, y_test = train_test_split(images, torch.tensor(labels), test_size=0.25, random_state=0)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 4 * 4, 10),
)
epochs, batch = 6, 64
optimizer = AdamW(model.parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs=epochs, steps_per_epoch=-(-len(X) // batch))

for epoch in range(1, epochs + 1):
    for rows in torch.randperm(len(X)).split(batch):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X[rows]), y[rows])
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        accuracy = (model(X_test).argmax(1) == y_test).float().mean().item()
    print(f"epoch {epoch}: loss {loss.item():.3f}, test accuracy {accuracy:.3f}")
