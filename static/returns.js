// The moments when a reader or the network comes back: what is shown may be old, and what failed may work now.

/** @param {() => void} listener @param {AbortSignal} signal ends it */
export function onReturn(listener, signal) {
  addEventListener("online", listener, { signal });
  addEventListener("focus", listener, { signal });
  addEventListener("pageshow", ({ persisted }) => persisted && listener(), { signal });
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && listener(), { signal });
}
