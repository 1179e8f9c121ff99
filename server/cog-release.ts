/**
 * The Cog release whose HTTP contract this server keeps: what clients that ask for Cog's version are told, in the words
 * of that release. `python` names what really runs.
 */
export const COG_RELEASE = {
  coglet: '0.23.1',
  git_sha: '9b9f6339',
  build_time: '2026-10-20T14:46:36Z',
  python_sdk: '0.23.1',
  python: `none, Node.js ${process.versions.node}`,
} as const
