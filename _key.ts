/**
 * The key by which updates are kept in order unless told otherwise: the chat,
 * else the user, else the update itself.
 *
 * Every object that can stand in an update has its chat and its user in the
 * same few places, so that update types to come are covered, too.
 */
export function keyOf(update: object): string {
  for (const value of Object.values(update)) {
    if (typeof value !== "object" || value === null) continue;
    const chat = value.chat ?? value.message?.chat;
    if (chat?.id !== undefined) return `chat:${chat.id}`;
    const user = value.from ?? value.user ?? value.voter_chat;
    if (user?.id !== undefined) return `user:${user.id}`;
  }
  return `update:${(update as { update_id?: unknown }).update_id}`;
}
