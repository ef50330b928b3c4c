// A data plane's thread that cannot run.
export default () => {
  throw new Error('no such data plane');
};
