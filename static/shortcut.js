// The keys that begin a new chat: Control, Alt (Option) and N, which browsers leave free.

const IS_APPLE = /Mac|iPhone|iPad/.test(navigator.platform);

/** How to write them on this person's keyboard. */
export const NEW_CHAT_KEYS = IS_APPLE ? "⌃⌥N" : "Ctrl+Alt+N";

/** @param {KeyboardEvent} event */
export function isNewChatKey(event) {
  if (!event.ctrlKey || !event.altKey || event.shiftKey || event.metaKey) return false;
  // By the letter: Windows reports AltGr as Control and Alt, and AltGr+N writes ń in Polish. Option writes one always.
  return event.key.toLowerCase() === "n" || (IS_APPLE && event.code === "KeyN");
}
