from fedps.data.reader import client_files
def client_files_of(job): return {c:(p,) for c,p in client_files(job.runner.train_data_dir).items()}
