"""Train a network with Adam, look at the history, save the network and load it again."""

import tempfile
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import popgrad as pg

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=0.2, random_state=0, stratify=y)

model = pg.MLP([64, 32, 10], activation="relu", loss="cross_entropy", seed=0)
history = pg.fit(model, X_train, y_train, optimizer=pg.optim.Adam(), epochs=40, validation=0.2)

print(
    f"best validation loss {history.validation_loss[history.best]:.3f} after {history.forwards[history.best]} forwards"
)
print(f"test accuracy {(model.predict(X_test) == y_test).mean():.3f}")

with tempfile.TemporaryDirectory() as folder:
    path = model.save(Path(folder) / "digits.safetensors")
    print(f"the loaded network predicts the same: {(pg.MLP.load(path).predict(X_test) == model.predict(X_test)).all()}")
